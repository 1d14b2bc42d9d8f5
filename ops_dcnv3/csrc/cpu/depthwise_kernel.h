// Depthwise convolution, layer norm and GELU of one output pixel after the other, for one instruction set: what lies
// between them stays in the first-level cache. Included as dcnv3_kernel.h is.
#pragma once

#include <algorithm>

#include "depthwise_tasks.h"
#include "simd.h"

namespace ops_dcnv3 {
namespace {

constexpr int kPixels = kDepthwisePixels;

// The convolution of one channel, or of one vector of channels, at one output pixel, whose window begins at (top,
// left). `image` and `weight` (the taps, then the bias) point to that channel.
template <typename V, typename T, typename LoadInput, typename LoadWeight>
inline V convolve(const DepthwiseParams& p, const T* image, const accumulate_t<T>* weight, int64_t top, int64_t left,
                  LoadInput load_input, LoadWeight load_weight) {
  const int64_t y_begin = std::max<int64_t>(0, -top), y_end = std::min(p.kernel_h, p.height - top);
  const int64_t x_begin = std::max<int64_t>(0, -left), x_end = std::min(p.kernel_w, p.width - left);
  V total = load_weight(weight + p.kernel_h * p.kernel_w * p.channels);
  for (int64_t y = y_begin; y < y_end; ++y) {
    for (int64_t x = x_begin; x < x_end; ++x) {
      total += load_weight(weight + (y * p.kernel_w + x) * p.channels) *
               load_input(image + ((top + y) * p.width + left + x) * p.channels);
    }
  }
  return total;
}

// The same for a vector of channels at kPixels pixels one beside the other, for stride 1 and a kernel of known width:
// what is loaded serves all taps and pixels that it belongs to. Outside the image zeros are read.
template <int kWidth, typename T>
inline void convolve_run(const DepthwiseParams& p, const T* image, const accumulate_t<T>* weight, int64_t top,
                         int64_t left, typename Simd<T>::Vector total[kPixels]) {
  using S = Simd<T>;
  using SA = Simd<accumulate_t<T>>;
  using V = typename S::Vector;
  const V bias = SA::load(weight + p.kernel_h * kWidth * p.channels);
  for (int i = 0; i < kPixels; ++i) total[i] = bias;
  for (int64_t y = std::max<int64_t>(0, -top); y < std::min(p.kernel_h, p.height - top); ++y) {
    V tap[kWidth];
    for (int x = 0; x < kWidth; ++x) tap[x] = SA::load(weight + (y * kWidth + x) * p.channels);
    const T* row = image + (top + y) * p.width * p.channels;
#pragma GCC unroll 16
    for (int column = 0; column < kPixels + kWidth - 1; ++column) {
      const bool inside = left + column >= 0 && left + column < p.width;
      const V pixel = inside ? S::load(row + (left + column) * p.channels) : S::zero();
#pragma GCC unroll 8
      for (int x = 0; x < kWidth; ++x) {
        if (column - x >= 0 && column - x < kPixels) total[column - x] += tap[x] * pixel;
      }
    }
  }
}

// The convolution of `pixels` pixels one beside the other, all channels of one after those of the other.
template <int kWidth, typename T>
inline void convolve_pixels(const DepthwiseParams& p, const T* image, const accumulate_t<T>* weight, int64_t top,
                            int64_t left, int64_t pixels, accumulate_t<T>* values) {
  using A = accumulate_t<T>;
  using S = Simd<T>;
  using SA = Simd<A>;
  using V = typename S::Vector;
  int64_t c = 0;
  for (; c + S::kWidth <= p.channels; c += S::kWidth) {
    V total[kPixels];
    if constexpr (kWidth > 0) {
      convolve_run<kWidth>(p, image + c, weight + c, top, left, total);
    } else {
      for (int64_t i = 0; i < pixels; ++i) {
        total[i] = convolve<V>(p, image + c, weight + c, top, left + i * p.stride_w, S::load, SA::load);
      }
    }
    for (int64_t i = 0; i < pixels; ++i) SA::store(total[i], values + i * p.channels + c);
  }
  auto load_input = [](const T* from) { return to_accumulate(*from); };
  auto load_weight = [](const A* from) { return *from; };
  for (; c < p.channels; ++c) {
    for (int64_t i = 0; i < pixels; ++i) {
      values[i * p.channels + c] =
          convolve<A>(p, image + c, weight + c, top, left + i * p.stride_w, load_input, load_weight);
    }
  }
}

template <typename T>
void depthwise_norm_gelu(const DepthwiseParams& p, const T* input, const accumulate_t<T>* parameters, T* output,
                         int64_t row_begin, int64_t row_end, accumulate_t<T>* values) {
  using A = accumulate_t<T>;
  using S = Simd<T>;
  using SA = Simd<A>;
  using V = typename S::Vector;
  const int64_t channels = p.channels;
  const A *scale = parameters + (p.kernel_h * p.kernel_w + 1) * channels, *shift = scale + channels;
  auto add = [](V a, V b) { return a + b; };
  // body(channel, vector) and then tail(channel, number) of the values of a pixel.
  auto for_values = [&](int64_t pixel, auto body, auto tail) __attribute__((always_inline)) {
    const A* own = values + pixel * channels;
    int64_t c = 0;
    for (; c + S::kWidth <= channels; c += S::kWidth) body(c, SA::load(own + c));
    for (; c < channels; ++c) tail(c, own[c]);
  };
  auto* convolve_some = convolve_pixels<0, T>;
  if (p.stride_w == 1 && p.kernel_w == 3) convolve_some = convolve_pixels<3, T>;
  if (p.stride_w == 1 && p.kernel_w == 5) convolve_some = convolve_pixels<5, T>;
  for (int64_t row = row_begin; row < row_end; ++row) {
    const T* image = input + row / p.out_height * p.height * p.width * channels;
    const int64_t top = row % p.out_height * p.stride_h - p.pad_h;
    for (int64_t first = 0; first < p.out_width; first += kPixels) {
      const int64_t pixels = std::min<int64_t>(kPixels, p.out_width - first);
      convolve_some(p, image, parameters, top, first * p.stride_w - p.pad_w, pixels, values);
      // One step for all pixels before the next one: within a pixel each step waits for the end of the one before.
      A mean[kPixels], factor[kPixels];
      for (int64_t i = 0; i < pixels; ++i) {
        V sums = S::zero();
        A sum = 0;
        for_values(i, [&](int64_t, V value) { sums += value; }, [&](int64_t, A value) { sum += value; });
        mean[i] = (sum + reduce(sums, add)) / channels;
      }
      for (int64_t i = 0; i < pixels; ++i) {
        V sums = S::zero();
        A sum = 0;
        for_values(
            i, [&](int64_t, V value) { sums += (value - mean[i]) * (value - mean[i]); },
            [&](int64_t, A value) { sum += (value - mean[i]) * (value - mean[i]); });
        factor[i] = 1 / std::sqrt((sum + reduce(sums, add)) / channels + A(p.eps));
      }
      for (int64_t i = 0; i < pixels; ++i, output += channels) {
        for_values(
            i,
            [&](int64_t c, V value) {
              S::store(gelu((value - mean[i]) * factor[i] * SA::load(scale + c) + SA::load(shift + c)), output + c);
            },
            [&](int64_t c, A value) {
              from_accumulate(gelu(S::broadcast((value - mean[i]) * factor[i] * scale[c] + shift[c]))[0], output + c);
            });
      }
    }
  }
}

}  // namespace

namespace OPS_DCNV3_ISA {
#define OPS_DCNV3_DEFINE_DEPTHWISE(T)         \
  template <>                                 \
  DepthwiseTask<T> depthwise_task<T>() {      \
    return ops_dcnv3::depthwise_norm_gelu<T>; \
  }
OPS_DCNV3_DEFINE_DEPTHWISE(float)
OPS_DCNV3_DEFINE_DEPTHWISE(double)
OPS_DCNV3_DEFINE_DEPTHWISE(BFloat16)
OPS_DCNV3_DEFINE_DEPTHWISE(Half)
#undef OPS_DCNV3_DEFINE_DEPTHWISE
}  // namespace OPS_DCNV3_ISA
}  // namespace ops_dcnv3
