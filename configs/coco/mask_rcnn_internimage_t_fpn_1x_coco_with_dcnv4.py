# Officially this is the Mask R-CNN of `_base_`, DCNv3 and all, with `use_dcn_v4_op=True` in the backbone, which has the
# kernels of the package DCNv4 do the sampling. There is one operator here, DCNv3, and no DCNv4: it runs by our own.
_base_ = './mask_rcnn_internimage_t_fpn_1x_coco.py'
