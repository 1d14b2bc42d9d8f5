// DCNv3 on the CPU: the loops, for one instruction set. Included by one .cpp file per instruction set, which sets
// OPS_DCNV3_ISA (a namespace) and OPS_DCNV3_VECTOR_BYTES. Knows no torch and starts no threads.
//
// First the geometry of all points of an output pixel (loops over points, vectorised), then the channels: every point is
// four rows of channels and four weights. A corner outside the image reads a row of zeros and writes to a scratch row, so
// that the loops over channels, where the time goes, have no branches.
#pragma once

#include <limits>
#include <type_traits>

#include "dcnv3_tasks.h"
#include "simd.h"

namespace ops_dcnv3 {
namespace {

template <typename T>
struct Workspace {
  using A = accumulate_t<T>;
  // Per point of one output pixel: all groups in forward, one group in backward.
  A *grid_x, *grid_y, *dx, *dy, *gain;
  int32_t *x0, *y0;
  // Per point and corner.
  A *weight, *dot;
  const T** row;
  A** grad_row;
  // One group of channels.
  T* zeros;
  A* sink;

  // With memory == nullptr nothing is written; returns the bytes needed.
  int64_t lay_out(const Dcnv3Params& p, char* memory) {
    int64_t used = 0;
    auto take = [&](auto*& block, int64_t count) {
      block = memory ? reinterpret_cast<std::remove_reference_t<decltype(block)>>(memory + used) : nullptr;
      used += (count * int64_t(sizeof(*block)) + 63) / 64 * 64;
    };
    const int64_t points = p.groups * p.points, corners = 4 * points;
    take(grid_x, points), take(grid_y, points), take(dx, points), take(dy, points), take(gain, points);
    take(x0, points), take(y0, points);
    take(weight, corners), take(dot, corners), take(row, corners), take(grad_row, corners);
    take(zeros, p.group_channels), take(sink, p.group_channels);
    return used;
  }

  Workspace(const Dcnv3Params& p, void* memory) {
    lay_out(p, static_cast<char*>(memory));
    if (!memory) return;
    for (int64_t group = 0; group < p.groups; ++group) kernel_grid(p, grid_x + group * p.points, grid_y + group * p.points);
    std::memset(static_cast<void*>(zeros), 0, p.group_channels * sizeof(T));
    std::memset(static_cast<void*>(sink), 0, p.group_channels * sizeof(A));
  }
};

template <typename T>
int64_t workspace_bytes(const Dcnv3Params& p) {
  return Workspace<T>(p, nullptr).lay_out(p, nullptr);
}

// Corner and fraction of each point. gain is the mask value of a point that touches the image. Any other point gets the
// corner (-2, -2), which has no corner inside, and gain 0, so that it contributes nothing; or NaN where its position is.
template <typename T>
inline void locate_points(const Dcnv3Params& p, int64_t count, int64_t center_y, int64_t center_x, const T* offset,
                          const T* mask, Workspace<T>& ws) {
  using A = accumulate_t<T>;
  const A scale = static_cast<A>(p.offset_scale), cx = static_cast<A>(center_x), cy = static_cast<A>(center_y);
  const int32_t height = static_cast<int32_t>(p.height), width = static_cast<int32_t>(p.width);
  A *__restrict gx = ws.grid_x, *__restrict gy = ws.grid_y, *__restrict dx = ws.dx, *__restrict dy = ws.dy;
  A* __restrict gain = ws.gain;
  int32_t *__restrict x0 = ws.x0, *__restrict y0 = ws.y0;
  for (int64_t k = 0; k < count; ++k) {
    const A x = sampling_position(cx, gx[k], A(to_accumulate(offset[2 * k])), scale);
    const A y = sampling_position(cy, gy[k], A(to_accumulate(offset[2 * k + 1])), scale);
    const bool inside = touches_image(y, x, height, width);
    const BilinearPoint<A> at = bilinear_point(inside ? y : A(0), inside ? x : A(0));
    x0[k] = inside ? at.x0 : -2;
    y0[k] = inside ? at.y0 : -2;
    dx[k] = at.dx;
    dy[k] = at.dy;
    const A nothing = (x != x) | (y != y) ? std::numeric_limits<A>::quiet_NaN() : A(0);
    gain[k] = inside ? A(to_accumulate(mask[k])) : nothing;
  }
}

// Rows of channels at the four corners of a point; `outside` stands in for a corner outside the image.
template <typename Row>
inline void corner_rows(const Dcnv3Params& p, int32_t y0, int32_t x0, Row* image, Row* outside, Row** row) {
  const int64_t channels = p.channels(), below = p.width * channels;
  auto within = [](int32_t index, int64_t size) { return uint32_t(index) < uint32_t(size); };
  if (within(y0, p.height - 1) && within(x0, p.width - 1)) {
    Row* first = image + (y0 * p.width + x0) * channels;
    row[0] = first;
    row[1] = first + channels;
    row[2] = first + below;
    row[3] = first + below + channels;
    return;
  }
  for (int32_t corner = 0; corner < 4; ++corner) {
    const int32_t y = y0 + corner / 2, x = x0 + corner % 2;
    row[corner] = within(y, p.height) && within(x, p.width) ? image + (y * p.width + x) * channels : outside;
  }
}

// Calls body(channel, number of vectors as a constant) over the group's channels, then tail(channel) one by one.
template <typename S, typename Body, typename Tail>
inline void for_channels(int64_t channels, Body body, Tail tail) {
  int64_t c = 0;
  for (; c + 4 * S::kWidth <= channels; c += 4 * S::kWidth) body(c, std::integral_constant<int, 4>());
  if (c + 2 * S::kWidth <= channels) body(c, std::integral_constant<int, 2>()), c += 2 * S::kWidth;
  if (c + S::kWidth <= channels) body(c, std::integral_constant<int, 1>()), c += S::kWidth;
  for (; c < channels; ++c) tail(c);
}

template <typename T>
void forward(const Dcnv3Params& p, const T* input, const T* offset, const T* mask, T* output, int64_t row_begin,
             int64_t row_end, void* memory) {
  using A = accumulate_t<T>;
  using S = Simd<T>;
  using V = typename S::Vector;
  Workspace<T> ws(p, memory);
  const int64_t pixel_points = p.groups * p.points;
  for (int64_t out_row = row_begin; out_row < row_end; ++out_row) {
    const T* image = input + out_row / p.out_height * p.height * p.width * p.channels();
    const int64_t center_y =
        window_center(out_row % p.out_height, p.kernel_h, p.stride_h, p.pad_h, p.dilation_h);
    for (int64_t out_x = 0; out_x < p.out_width; ++out_x) {
      const int64_t pixel = out_row * p.out_width + out_x;
      const int64_t center_x = window_center(out_x, p.kernel_w, p.stride_w, p.pad_w, p.dilation_w);
      locate_points(p, pixel_points, center_y, center_x, offset + pixel * pixel_points * 2, mask + pixel * pixel_points,
                    ws);
      for (int64_t k = 0; k < pixel_points; ++k) {
        A weight[4];
        bilinear_weights(ws.dy[k], ws.dx[k], weight);
        for (int corner = 0; corner < 4; ++corner) ws.weight[4 * k + corner] = weight[corner] * ws.gain[k];
      }
      for (int64_t group = 0; group < p.groups; ++group) {
        const int64_t first_point = group * p.points;
        const T* group_image = image + group * p.group_channels;
        T* out = output + pixel * p.channels() + group * p.group_channels;
        for (int64_t k = 0; k < p.points; ++k) {
          corner_rows<const T>(p, ws.y0[first_point + k], ws.x0[first_point + k], group_image, ws.zeros, ws.row + 4 * k);
        }
        const A* weights = ws.weight + 4 * first_point;
        for_channels<S>(
            p.group_channels,
            [&](int64_t c, auto vectors) {
              V total[vectors()];
              for (int v = 0; v < vectors(); ++v) total[v] = S::zero();
              for (int64_t k = 0; k < p.points; ++k) {
                const T* const* row = ws.row + 4 * k;
                const V w0 = S::broadcast(weights[4 * k]), w1 = S::broadcast(weights[4 * k + 1]);
                const V w2 = S::broadcast(weights[4 * k + 2]), w3 = S::broadcast(weights[4 * k + 3]);
                for (int v = 0; v < vectors(); ++v) {
                  const int64_t at = c + v * S::kWidth;
                  total[v] += (w0 * S::load(row[0] + at) + w1 * S::load(row[1] + at)) +
                              (w2 * S::load(row[2] + at) + w3 * S::load(row[3] + at));
                }
              }
              for (int v = 0; v < vectors(); ++v) S::store(total[v], out + c + v * S::kWidth);
            },
            [&](int64_t c) {
              A total = 0;
              for (int64_t k = 0; k < 4 * p.points; ++k) total += weights[k] * to_accumulate(ws.row[k][c]);
              from_accumulate(total, out + c);
            });
      }
    }
  }
}

template <typename T, bool kWantInput, bool kWantPoints>
void backward_slab(const Dcnv3Params& p, const T* input, const T* offset, const T* mask, const T* grad_output,
                   const Dcnv3Gradients<T>& grad, int64_t image, int64_t group, int64_t row_begin, int64_t row_end,
                   void* memory) {
  using A = accumulate_t<T>;
  using S = Simd<T>;
  using SA = Simd<A>;
  using V = typename S::Vector;
  Workspace<T> ws(p, memory);
  const int64_t image_start = image * p.height * p.width * p.channels() + group * p.group_channels;
  const A scale = static_cast<A>(p.offset_scale);
  for (int64_t out_y = row_begin; out_y < row_end; ++out_y) {
    const int64_t center_y = window_center(out_y, p.kernel_h, p.stride_h, p.pad_h, p.dilation_h);
    for (int64_t out_x = 0; out_x < p.out_width; ++out_x) {
      const int64_t center_x = window_center(out_x, p.kernel_w, p.stride_w, p.pad_w, p.dilation_w);
      const int64_t pixel = (image * p.out_height + out_y) * p.out_width + out_x;
      const int64_t first_point = (pixel * p.groups + group) * p.points;
      const T* grad_out = grad_output + pixel * p.channels() + group * p.group_channels;
      locate_points(p, p.points, center_y, center_x, offset + 2 * first_point, mask + first_point, ws);
      for (int64_t k = 0; k < p.points; ++k) {
        bilinear_weights(ws.dy[k], ws.dx[k], ws.weight + 4 * k);
        if (kWantPoints) corner_rows<const T>(p, ws.y0[k], ws.x0[k], input + image_start, ws.zeros, ws.row + 4 * k);
        if (kWantInput) corner_rows<A>(p, ws.y0[k], ws.x0[k], grad.input + image_start, ws.sink, ws.grad_row + 4 * k);
        for (int corner = 0; corner < 4; ++corner) ws.dot[4 * k + corner] = 0;
      }
      for_channels<S>(
          p.group_channels,
          [&](int64_t c, auto vectors) {
            V g[vectors()];
            for (int v = 0; v < vectors(); ++v) g[v] = S::load(grad_out + c + v * S::kWidth);
            for (int64_t k = 0; k < p.points; ++k) {
              for (int corner = 0; corner < 4; ++corner) {
                if (kWantPoints) {
                  const T* row = ws.row[4 * k + corner] + c;
                  V product = g[0] * S::load(row);
                  for (int v = 1; v < vectors(); ++v) product += g[v] * S::load(row + v * S::kWidth);
                  ws.dot[4 * k + corner] += S::sum(product);
                }
                if (kWantInput) {
                  A* grad_row = ws.grad_row[4 * k + corner] + c;
                  const V weight = S::broadcast(ws.weight[4 * k + corner] * ws.gain[k]);
                  for (int v = 0; v < vectors(); ++v) {
                    SA::store(SA::load(grad_row + v * S::kWidth) + weight * g[v], grad_row + v * S::kWidth);
                  }
                }
              }
            }
          },
          [&](int64_t c) {
            const A g = to_accumulate(grad_out[c]);
            for (int64_t k = 0; k < 4 * p.points; ++k) {
              if (kWantPoints) ws.dot[k] += g * to_accumulate(ws.row[k][c]);
              if (kWantInput) ws.grad_row[k][c] += ws.weight[k] * ws.gain[k / 4] * g;
            }
          });
      if (!kWantPoints) continue;
      for (int64_t k = 0; k < p.points; ++k) {
        const A *weight = ws.weight + 4 * k, *dot = ws.dot + 4 * k;
        const bool nan = ws.x0[k] == -2 && ws.gain[k] != ws.gain[k];  // position, not mask
        A value = nan ? ws.gain[k] : A(0), grad_y, grad_x;
        for (int corner = 0; corner < 4; ++corner) value += weight[corner] * dot[corner];
        bilinear_gradient(ws.dy[k], ws.dx[k], dot, &grad_y, &grad_x);
        if (grad.mask) from_accumulate(value, grad.mask + first_point + k);
        if (grad.offset) {
          from_accumulate(grad_x * ws.gain[k] * scale, grad.offset + 2 * (first_point + k));
          from_accumulate(grad_y * ws.gain[k] * scale, grad.offset + 2 * (first_point + k) + 1);
        }
      }
    }
  }
}

template <typename T>
void backward(const Dcnv3Params& p, const T* input, const T* offset, const T* mask, const T* grad_output,
              const Dcnv3Gradients<T>& grad, int64_t image, int64_t group, int64_t row_begin, int64_t row_end,
              void* memory) {
  const bool points = grad.offset || grad.mask;
  const auto slab = !points       ? backward_slab<T, true, false>
                    : !grad.input ? backward_slab<T, false, true>
                                  : backward_slab<T, true, true>;
  slab(p, input, offset, mask, grad_output, grad, image, group, row_begin, row_end, memory);
}

}  // namespace

namespace OPS_DCNV3_ISA {
#define OPS_DCNV3_DEFINE_TASKS(T)                                                       \
  template <>                                                                           \
  const Dcnv3Tasks<T>& dcnv3_tasks<T>() {                                               \
    static constexpr Dcnv3Tasks<T> tasks{workspace_bytes<T>, forward<T>, backward<T>};  \
    return tasks;                                                                       \
  }
OPS_DCNV3_DEFINE_TASKS(float)
OPS_DCNV3_DEFINE_TASKS(double)
OPS_DCNV3_DEFINE_TASKS(BFloat16)
OPS_DCNV3_DEFINE_TASKS(Half)
#undef OPS_DCNV3_DEFINE_TASKS
}  // namespace OPS_DCNV3_ISA
}  // namespace ops_dcnv3
