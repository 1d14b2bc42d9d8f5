# Evaluated on the 5000 images of LVIS that are in COCO's validation split as well.
_base_ = './dino_4scale_cbinternimage_h_objects365_lvis_val_ss.py'

val_ann_file = 'annotations/lvis_v1_minival.json'
val_dataloader = dict(dataset=dict(ann_file=val_ann_file))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=_base_.data_root + val_ann_file)
test_evaluator = val_evaluator
