# COCO-Stuff 10k, 171 classes; label 0 is ignored.
_base_ = './segmentation.py'

data_root = 'data/coco_stuff10k'
num_classes = 171
batch_size = 1

dataset = dict(type='COCOStuffDataset', data_root=data_root, reduce_zero_label=True)
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(data_prefix=dict(img_path='images/train2014', seg_map_path='annotations/train2014'), **dataset))
val_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path='images/test2014', seg_map_path='annotations/test2014'), **dataset))
test_dataloader = val_dataloader
