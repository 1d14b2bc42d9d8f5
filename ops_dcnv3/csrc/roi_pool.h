// RoI pooling, regular and deformable (arXiv 1703.06211, sections 2.2 and 2.3; 1811.11168, section 3.2), also
// position-sensitive (1605.06409): parameters and sampling geometry, shared by the CPU and CUDA kernels.
#pragma once

#include "bilinear.h"

namespace ops_dcnv3 {

// The unit of work is one bin of one RoI for one class of offsets, number (roi * bins + bin) * classes + class. It
// averages samples of one map, which is an image of `depth` channels. Contiguous, all in the type of sums (float or
// double):
//   input   (batch, maps, classes, height, width, depth), a map for each bin where position_sensitive, else 1
//   rois    (rois, 5): image index, x1, y1, x2, y2
//   offset  (rois, classes, 2, bins_h, bins_w), x before y, in units of gamma times the size of the RoI; or null
//   mask    (rois, bins_h, bins_w); or null
//   output  (rois, bins, classes, depth)
struct RoiPoolParams {
  int64_t batch, classes, height, width, depth;  // height * width < 2^31
  int64_t rois, bins_h, bins_w;
  int64_t sampling_ratio;  // 0: adaptive
  double spatial_scale, gamma;
  bool position_sensitive;
};

template <typename T>
struct RoiPoolInputs {
  using type = T;
  const T *input, *rois, *offset, *mask;
};

OPS_DCNV3_INLINE int64_t roi_pool_bins(const RoiPoolParams& p) { return p.bins_h * p.bins_w; }
OPS_DCNV3_INLINE int64_t roi_pool_maps(const RoiPoolParams& p) { return p.position_sensitive ? roi_pool_bins(p) : 1; }

// The image of a RoI, -1 if there is none of this index. Fractions are cut off, but -0.5 is not an image.
template <typename T>
OPS_DCNV3_INLINE int64_t roi_image(const RoiPoolParams& p, T index) {
  return index >= 0 && index < T(p.batch) ? int64_t(index) : -1;
}

// The samples of a bin along one axis, in input pixels.
template <typename T>
struct BinSamples {
  T start, bin;   // where the bin starts, and its length
  int64_t count;  // 0: the bin is empty
  T reach;        // derivative of every position by the offset
};

template <typename T>
OPS_DCNV3_INLINE T sample_position(const BinSamples<T>& samples, int64_t i) {
  return samples.start + (T(i) + T(0.5)) * samples.bin / T(samples.count);
}

// The value of a bin without samples inside the image: 0, or NaN where its position is not finite.
template <typename T>
OPS_DCNV3_INLINE T value_outside(const BinSamples<T>& y, const BinSamples<T>& x) {
  if (y.count == 0 || x.count == 0) return 0;
  return y.start != y.start ? y.start : x.start != x.start ? x.start : T(0);
}

// The most samples of a bin along an axis: neither a number that is asked for nor a huge box may take for ever. Only an
// image larger than that has more, for boxes as large.
constexpr int64_t kMostSamples = 1024;

// Bin `index` of `bins` between two corners of a box, along an axis of `size` pixels. Operation for operation what
// RoIAlign does, so that positions come out the same to the last bit.
template <typename T>
OPS_DCNV3_INLINE BinSamples<T> bin_samples(const RoiPoolParams& p, T low, T high, int64_t bins, int64_t index, T offset,
                                           int64_t size) {
  const T half = T(0.5), scale = T(p.spatial_scale);
  const T start = low * scale - half, length = (high * scale - half) - start, bin = length / T(bins);
  const T reach = T(p.gamma) * length, most = T(size > kMostSamples ? size : kMostSamples);
  BinSamples<T> samples{start + T(index) * bin + reach * offset, bin, p.sampling_ratio, reach};
  const T nan = (start - start) + (bin - bin);  // or 0, for finite numbers
  if (nan != nan) {
    samples.start = nan;
    samples.count = 1;
  } else if (samples.count == 0 && bin > 0) {
    const int64_t whole = int64_t(bin < most ? bin : most);
    samples.count = whole + (T(whole) < bin && bin < most);
  }
  return samples;
}

template <typename T>
struct RoiPoolUnit {
  int64_t map;  // where its map starts, in elements of input; -1: there is no image of this index
  BinSamples<T> y, x;
  T modulation;
};

template <typename T>
OPS_DCNV3_INLINE RoiPoolUnit<T> roi_pool_unit(const RoiPoolParams& p, const RoiPoolInputs<T>& in, int64_t roi,
                                              int64_t bin, int64_t of_class) {
  const T* box = in.rois + 5 * roi;
  const int64_t bins = roi_pool_bins(p), image = roi_image(p, box[0]);
  const int64_t slab = (image * roi_pool_maps(p) + (p.position_sensitive ? bin : 0)) * p.classes + of_class;
  const T* offset = in.offset ? in.offset + (roi * p.classes + of_class) * 2 * bins + bin : nullptr;
  const T offset_x = offset ? offset[0] : T(0), offset_y = offset ? offset[bins] : T(0);
  return {image < 0 ? -1 : slab * p.height * p.width * p.depth,
          bin_samples(p, box[2], box[4], p.bins_h, bin / p.bins_w, offset_y, p.height),
          bin_samples(p, box[1], box[3], p.bins_w, bin % p.bins_w, offset_x, p.width),
          in.mask ? in.mask[roi * bins + bin] : T(1)};
}

}  // namespace ops_dcnv3
