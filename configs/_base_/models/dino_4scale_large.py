# DINO for InternImage-H and G, pre-trained on Objects365.
# The official configs have `snip_cfg`, and `fed_loss_cfg` on LVIS, in train_cfg. They are left out:
# nothing that reads them was found in the released heads.
_base_ = './dino_4scale.py'

model = dict(
    ffn_with_cp=True,
    dn_cfg=dict(group_cfg=dict(num_dn_queries=1000)),
    test_cfg=dict(max_per_img=300))
