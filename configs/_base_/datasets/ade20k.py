# ADE20K, 150 classes; label 0 is "other", which is ignored.
_base_ = './segmentation.py'

data_root = 'data/ADEChallengeData2016'
num_classes = 150

dataset = dict(type='ADE20KDataset', data_root=data_root, reduce_zero_label=True)
train_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'), **dataset))
val_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'), **dataset))
test_dataloader = val_dataloader
