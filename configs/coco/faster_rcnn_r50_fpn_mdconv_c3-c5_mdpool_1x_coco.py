_base_ = './faster_rcnn_r50_fpn_mdconv_c3-c5_1x_coco.py'

model = dict(
    roi_head=dict(
        bbox_roi_extractor=dict(
            type='DeformRoIExtractor',
            roi_layer=dict(
                type='ModulatedDeformRoIPoolPack', output_channels=_base_.model.neck.out_channels))))
