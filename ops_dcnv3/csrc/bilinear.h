// Bilinear sampling, the one place where it stands: used by every operator, on the CPU and in CUDA kernels.
//
// Pixel model: the centre of pixel (row r, column c) is the point (y, x) = (r, c). A corner outside the image reads 0,
// and a point that is a whole pixel or more outside touches no corner at all.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define OPS_DCNV3_INLINE static __host__ __device__ __forceinline__
#else
// Internal linkage: the same header is compiled once per instruction set, and the linker must not merge those copies.
#define OPS_DCNV3_INLINE static inline
#endif

namespace ops_dcnv3 {

// The four corners are (y0, x0), (y0, x0 + 1), (y0 + 1, x0), (y0 + 1, x0 + 1); (dy, dx) is the fraction beyond (y0, x0).
template <typename T>
struct BilinearPoint {
  int32_t y0, x0;  // -1 <= y0 < height, -1 <= x0 < width
  T dy, dx;        // in [0, 1)
};

// Whether any corner of point (y, x) can be inside the image. False for NaN, so that converting to int is safe after it.
template <typename T>
OPS_DCNV3_INLINE bool touches_image(T y, T x, int32_t height, int32_t width) {
  return (y > T(-1)) & (y < T(height)) & (x > T(-1)) & (x < T(width));  // & and not &&: loops over points vectorise
}

// For a point that touches the image.
template <typename T>
OPS_DCNV3_INLINE BilinearPoint<T> bilinear_point(T y, T x) {
  int32_t y0 = static_cast<int32_t>(y), x0 = static_cast<int32_t>(x);
  y0 -= y < T(y0);  // the conversion rounds towards zero, the corner lies below
  x0 -= x < T(x0);
  return {y0, x0, y - T(y0), x - T(x0)};
}

// Weights of the corners in the order given above; they sum to 1.
template <typename T>
OPS_DCNV3_INLINE void bilinear_weights(T dy, T dx, T weight[4]) {
  weight[0] = (1 - dy) * (1 - dx);
  weight[1] = (1 - dy) * dx;
  weight[2] = dy * (1 - dx);
  weight[3] = dy * dx;
}

// Derivatives of the sampled value by y and by x, from the values at the four corners.
template <typename T>
OPS_DCNV3_INLINE void bilinear_gradient(T dy, T dx, const T corner[4], T* grad_y, T* grad_x) {
  *grad_y = (1 - dx) * (corner[2] - corner[0]) + dx * (corner[3] - corner[1]);
  *grad_x = (1 - dy) * (corner[1] - corner[0]) + dy * (corner[3] - corner[2]);
}

}  // namespace ops_dcnv3
