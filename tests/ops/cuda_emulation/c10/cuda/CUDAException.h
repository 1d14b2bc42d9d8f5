// In place of PyTorch's own header of this name.
#pragma once
#include <c10/util/Exception.h>
#define C10_CUDA_CHECK(error) TORCH_CHECK((error) == cudaSuccess)
