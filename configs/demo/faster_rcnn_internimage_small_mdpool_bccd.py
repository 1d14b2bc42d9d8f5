_base_ = './faster_rcnn_internimage_small_dpool_bccd.py'

model = dict(roi_head=dict(bbox_roi_extractor=dict(roi_layer=dict(type='ModulatedDeformRoIPoolPack'))))
