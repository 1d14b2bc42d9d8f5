# Cityscapes with its 20,000 coarsely labelled images for training too, in refined labels of the fine set's format.
_base_ = './cityscapes.py'

train_set = _base_.train_dataloader.dataset
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            train_set,
            dict(
                train_set,
                data_prefix=dict(img_path='leftImg8bit/train_extra', seg_map_path='refinement_final/train_extra')),
        ]))
