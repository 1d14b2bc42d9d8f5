"""What a library that was built with CUDA must have; a machine without a GPU can tell."""

from pathlib import Path

import pytest
import torch

import ops_dcnv3


def test_every_operator_on_tensors_has_a_cuda_kernel():
    library = Path(ops_dcnv3._C.__file__)
    if b'libcudart' not in library.read_bytes():
        pytest.skip(f'{library.name} was built for the CPU alone: it does not link the CUDA runtime')
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith('ops_dcnv3::')]
    schemas = {name: getattr(torch.ops.ops_dcnv3, name.split('::')[1]).default._schema for name in names}
    on_tensors = [n for n, s in schemas.items() if any(isinstance(a.type, torch.TensorType) for a in s.arguments)]
    assert {'ops_dcnv3::dcnv3', 'ops_dcnv3::dcnv3_backward'} <= set(on_tensors)
    composed = {'ops_dcnv3::depthwise_norm_gelu', 'ops_dcnv3::linear'}  # of torch's own kernels
    assert {n for n in on_tensors if not torch._C._dispatch_has_kernel_for_dispatch_key(n, 'CUDA')} == composed
    assert all(torch._C._dispatch_has_computed_kernel_for_dispatch_key(n, 'CUDA') for n in composed)
