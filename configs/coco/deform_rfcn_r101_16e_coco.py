# Deformable ConvNets (arXiv 1703.06211): the three 3x3 convolutions of conv5 and the RoI pooling are deformable.
_base_ = './rfcn_r101_16e_coco.py'

model = dict(
    backbone=dict(
        dcn=dict(type='DCN', deform_groups=4, fallback_on_stride=False),
        stage_with_dcn=(False, False, False, True)),
    roi_head=dict(bbox_head=dict(deformable=True)))
