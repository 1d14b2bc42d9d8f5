# Tested on the test set of 2012, with the area under the curve, as that year has it.
_base_ = './dino_4scale_cbinternimage_h_objects365_voc07.py'

test_dataloader = dict(
    dataset=dict(
        ann_file='VOC2012test/ImageSets/Main/test.txt', data_prefix=dict(sub_data_root='VOC2012test/')))
test_evaluator = dict(eval_mode='area')
