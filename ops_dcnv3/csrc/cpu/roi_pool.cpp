// RoI pooling on the CPU.
//
// The samples of a bin form a grid, and bilinear interpolation is linear interpolation along y by linear interpolation
// along x. So the average over the samples is a weighted sum of pixels with the weight (weight of the row) * (weight of
// the column), where a row's weight is summed up over all samples that read it, and so is a column's. Every pixel is
// read once per bin, however many samples there are. The pixels are vectors of channels, for which the input is
// transposed first.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "roi_pool_operators.h"

namespace ops_dcnv3 {
namespace {

// sum += weight * pixel
template <typename T>
inline void add_scaled(T weight, const T* __restrict__ pixel, int64_t channels, T* __restrict__ sum) {
  for (int64_t c = 0; c < channels; ++c) sum[c] += weight * pixel[c];
}

template <typename T>
inline T dot(const T* a, const T* b, int64_t channels) {
  constexpr int kSums = 64 / sizeof(T);  // a fixed order of addition, of which a compiler can make vectors
  T sums[kSums] = {}, total = 0;
  int64_t c = 0;
  for (; c + kSums <= channels; c += kSums) {
    for (int i = 0; i < kSums; ++i) sums[i] += a[c + i] * b[c + i];
  }
  for (; c < channels; ++c) total += a[c] * b[c];
  for (const T sum : sums) total += sum;
  return total;
}

// to[column][row] = from[row][column], in tiles that stay in the cache.
template <typename T>
void transpose(const T* from, int64_t rows, int64_t from_stride, int64_t columns, T* to, int64_t to_stride) {
  constexpr int64_t kTile = 16;
  for (int64_t column = 0; column < columns; column += kTile) {
    for (int64_t row = 0; row < rows; row += kTile) {
      const int64_t row_end = std::min(rows, row + kTile), column_end = std::min(columns, column + kTile);
      for (int64_t c = column; c < column_end; ++c) {
        for (int64_t r = row; r < row_end; ++r) to[c * to_stride + r] = from[r * from_stride + c];
      }
    }
  }
}

// Between contiguous tensors (images, classes, depth, maps, pixels) and (images, maps, classes, pixels, depth).
template <typename T>
void transpose_images(const RoiPoolParams& p, const T* from, bool channels_last, T* to) {
  constexpr int64_t kPixels = 4096;
  const int64_t pixels = p.height * p.width, maps = roi_pool_maps(p), chunks = (pixels + kPixels - 1) / kPixels;
  at::parallel_for(0, p.batch * maps * p.classes * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % chunks * kPixels, count = std::min(kPixels, pixels - first), slab = i / chunks;
      const int64_t of_class = slab % p.classes, map = slab / p.classes % maps, image = slab / p.classes / maps;
      const int64_t planes = ((image * p.classes + of_class) * p.depth * maps + map) * pixels + first;
      const int64_t vectors = (slab * pixels + first) * p.depth;
      if (channels_last) {
        transpose(from + planes, p.depth, maps * pixels, count, to + vectors, p.depth);
      } else {
        transpose(from + vectors, count, p.depth, p.depth, to + planes, maps * pixels);
      }
    }
  });
}

// A row or a column of pixels that a bin reads.
template <typename T>
struct Line {
  int32_t index;
  T weight, slope;  // slope: derivative of the weight by the offset
};

template <typename T>
void find_lines(const BinSamples<T>& samples, int64_t size, std::vector<Line<T>>& lines) {
  lines.clear();
  auto add = [&lines](int32_t index, T weight, T slope) {
    // A line that is there already is one of the last two, unless the box is inverted; twice in the list, it counts
    // twice.
    for (size_t back = 1; back <= 2 && back <= lines.size(); ++back) {
      Line<T>& line = lines[lines.size() - back];
      if (line.index == index) {
        line.weight += weight;
        line.slope += slope;
        return;
      }
    }
    lines.push_back({index, weight, slope});
  };
  for (int64_t i = 0; i < samples.count; ++i) {
    const T position = sample_position(samples, i);
    if (!touches_border(position, T(size))) continue;
    const LinearSample<T, int32_t> sample = linear_sample_border(position, int32_t(size));
    add(sample.first, sample.weight[0], sample.slope[0]);
    if (sample.step) add(sample.first + 1, sample.weight[1], sample.slope[1]);
  }
  for (Line<T>& line : lines) {
    line.weight /= T(samples.count);
    line.slope *= samples.reach / T(samples.count);
  }
}

// What one unit after another reads. Each thread has one of these.
template <typename T>
class Reader {
 public:
  Reader(const RoiPoolParams& p, const RoiPoolInputs<T>& in) : p(p), in(in) {}

  T outside, modulation;

  // Turns to a unit; returns where its map starts, in elements of input.
  int64_t locate(int64_t roi, int64_t bin, int64_t of_class) {
    const RoiPoolUnit<T> unit = roi_pool_unit(p, in, roi, bin, of_class);
    outside = value_outside(unit.y, unit.x);
    modulation = unit.modulation;
    find_lines(unit.y, p.height, rows);
    find_lines(unit.x, p.width, columns);
    return unit.map;
  }

  // Calls each(row, column, pixel), pixel being an offset in elements from the start of the map.
  template <typename Each>
  void for_each_pixel(Each each) const {
    for (const Line<T>& row : rows) {
      for (const Line<T>& column : columns) each(row, column, (row.index * p.width + column.index) * p.depth);
    }
  }

 private:
  const RoiPoolParams& p;
  const RoiPoolInputs<T>& in;
  std::vector<Line<T>> rows, columns;
};

// RoIs begin <= roi < end; output (rois, classes, depth, bins).
template <typename T>
void forward(const RoiPoolParams& p, const RoiPoolInputs<T>& in, T* output, int64_t begin, int64_t end) {
  Reader<T> reader(p, in);
  std::vector<T> sum(p.depth);
  const int64_t bins = roi_pool_bins(p);
  for (int64_t roi = begin; roi < end; ++roi) {
    for (int64_t bin = 0; bin < bins; ++bin) {
      for (int64_t of_class = 0; of_class < p.classes; ++of_class) {
        const T* map = in.input + reader.locate(roi, bin, of_class);
        std::fill(sum.begin(), sum.end(), reader.outside);
        reader.for_each_pixel([&](const Line<T>& row, const Line<T>& column, int64_t pixel) {
          add_scaled(row.weight * column.weight, map + pixel, p.depth, sum.data());
        });
        T* to = output + (roi * p.classes + of_class) * p.depth * bins + bin;
        for (int64_t c = 0; c < p.depth; ++c) to[c * bins] = sum[c] * reader.modulation;
      }
    }
  }
}

// Gradients by offset and mask of RoIs begin <= roi < end, either of them null where it is not wanted.
template <typename T>
void backward_bins(const RoiPoolParams& p, const RoiPoolInputs<T>& in, const T* grad_output, T* grad_offset,
                   T* grad_mask, int64_t begin, int64_t end) {
  Reader<T> reader(p, in);
  std::vector<T> gradient(p.depth);
  const int64_t bins = roi_pool_bins(p);
  for (int64_t roi = begin; roi < end; ++roi) {
    for (int64_t bin = 0; bin < bins; ++bin) {
      T value = 0;
      for (int64_t of_class = 0; of_class < p.classes; ++of_class) {
        const int64_t unit = roi * p.classes + of_class;
        const T* from = grad_output + unit * p.depth * bins + bin;
        for (int64_t c = 0; c < p.depth; ++c) gradient[c] = from[c * bins];
        const T* map = in.input + reader.locate(roi, bin, of_class);
        T along_x = reader.outside, along_y = reader.outside;
        value += reader.outside;
        reader.for_each_pixel([&](const Line<T>& row, const Line<T>& column, int64_t pixel) {
          const T product = dot(gradient.data(), map + pixel, p.depth);
          value += row.weight * column.weight * product;
          along_x += row.weight * column.slope * product;
          along_y += row.slope * column.weight * product;
        });
        if (!grad_offset) continue;
        grad_offset[2 * unit * bins + bin] = along_x * reader.modulation;
        grad_offset[(2 * unit + 1) * bins + bin] = along_y * reader.modulation;
      }
      if (grad_mask) grad_mask[roi * bins + bin] = value;
    }
  }
}

// The gradient by channels begin <= c < end of one class of one map of one image, summed up over the RoIs in their
// order.
template <typename T>
void backward_input(const RoiPoolParams& p, const RoiPoolInputs<T>& in, const T* grad_output, T* grad_input,
                    int64_t image, int64_t map, int64_t of_class, int64_t begin, int64_t end) {
  Reader<T> reader(p, in);
  std::vector<T> gradient(end - begin);
  const int64_t bins = roi_pool_bins(p);
  const int64_t first_bin = p.position_sensitive ? map : 0, last_bin = p.position_sensitive ? map + 1 : bins;
  for (int64_t roi = 0; roi < p.rois; ++roi) {
    if (roi_image(p, in.rois[5 * roi]) != image) continue;
    for (int64_t bin = first_bin; bin < last_bin; ++bin) {
      T* to = grad_input + reader.locate(roi, bin, of_class) + begin;
      const T* from = grad_output + ((roi * p.classes + of_class) * p.depth + begin) * bins + bin;
      for (int64_t c = 0; c < end - begin; ++c) gradient[c] = from[c * bins] * reader.modulation;
      reader.for_each_pixel([&](const Line<T>& row, const Line<T>& column, int64_t pixel) {
        add_scaled(row.weight * column.weight, gradient.data(), end - begin, to + pixel);
      });
    }
  }
}

RoiPoolTensors prepare(const RoiPoolArguments& arguments) {
  RoiPoolTensors tensors = make_roi_pool_tensors(arguments);
  const RoiPoolParams& p = tensors.p;
  AT_DISPATCH_FLOATING_TYPES(tensors.input.scalar_type(), "roi_pool", [&] {
    const scalar_t* boxes = tensors.rois.const_data_ptr<scalar_t>();
    for (int64_t roi = 0; roi < p.rois; ++roi) {
      TORCH_CHECK_INDEX(roi_image(p, boxes[5 * roi]) >= 0, arguments.name,
                        ": the image index of a RoI, its first number, "
                        "must be at least 0 and less than the batch size ",
                        p.batch, ", got ", boxes[5 * roi], " in RoI ", roi);
    }
    if (!tensors.input.is_contiguous() && p.rois > 0) {
      const at::Tensor planes = with_channels_first(tensors.input).contiguous();
      tensors.input = at::empty(tensors.input.sizes(), planes.options());
      transpose_images(p, planes.const_data_ptr<scalar_t>(), true, tensors.input.mutable_data_ptr<scalar_t>());
    }
  });
  return tensors;
}

at::Tensor roi_pool(const RoiPoolArguments& arguments) {
  const RoiPoolTensors tensors = prepare(arguments);
  const RoiPoolParams& p = tensors.p;
  at::Tensor output = at::empty({p.rois, p.classes * p.depth, p.bins_h, p.bins_w}, tensors.input.options());
  AT_DISPATCH_FLOATING_TYPES(output.scalar_type(), "roi_pool", [&] {
    const auto in = tensors.pointers<scalar_t>();
    at::parallel_for(0, p.rois, 1, [&](int64_t begin, int64_t end) {
      forward(p, in, output.mutable_data_ptr<scalar_t>(), begin, end);
    });
  });
  return output.to(arguments.input.scalar_type());
}

RoiPoolResults roi_pool_backward(const at::Tensor& grad_output, const RoiPoolArguments& arguments,
                                 std::array<bool, 3> wanted) {
  const RoiPoolTensors tensors = prepare(arguments);
  const RoiPoolParams& p = tensors.p;
  check_roi_pool_gradients(p, grad_output, arguments, wanted);
  const auto options = tensors.input.options();
  const at::Tensor grad_out = grad_output.to(options.dtype()).contiguous();
  auto result = [&](bool wanted, const at::Tensor& like) {
    return at::empty(wanted ? like.sizes() : at::IntArrayRef{0}, options);
  };
  at::Tensor grad_input = result(wanted[0], arguments.input), grad_offset = result(wanted[1], tensors.offset),
             grad_mask = result(wanted[2], tensors.mask);
  AT_DISPATCH_FLOATING_TYPES(options.dtype().toScalarType(), "roi_pool_backward", [&] {
    const auto in = tensors.pointers<scalar_t>();
    const scalar_t* gradient = grad_out.const_data_ptr<scalar_t>();
    if (wanted[1] || wanted[2]) {
      at::parallel_for(0, p.rois, 1, [&](int64_t begin, int64_t end) {
        backward_bins(p, in, gradient, wanted[1] ? grad_offset.mutable_data_ptr<scalar_t>() : nullptr,
                      wanted[2] ? grad_mask.mutable_data_ptr<scalar_t>() : nullptr, begin, end);
      });
    }
    if (wanted[0]) {
      // Each thread has channels of its own: no atomics, and the order of every sum is that of the RoIs.
      at::Tensor sums = at::empty(tensors.input.sizes(), options);
      sums.zero_();
      const int64_t maps = roi_pool_maps(p), slabs = p.batch * maps * p.classes;
      const int64_t blocks = std::max<int64_t>(1, at::get_num_threads() / std::max<int64_t>(1, slabs));
      const int64_t block = (p.depth + 16 * blocks - 1) / (16 * blocks) * 16;
      at::parallel_for(0, slabs * blocks, 1, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
          const int64_t slab = i / blocks, begin = i % blocks * block, end = std::min(p.depth, begin + block);
          if (begin >= end) continue;
          backward_input(p, in, gradient, sums.mutable_data_ptr<scalar_t>(), slab / p.classes / maps,
                         slab / p.classes % maps, slab % p.classes, begin, end);
        }
      });
      transpose_images(p, sums.const_data_ptr<scalar_t>(), false, grad_input.mutable_data_ptr<scalar_t>());
    }
  });
  const auto dtype = arguments.input.scalar_type();
  return {grad_input.to(dtype), grad_offset.to(dtype), grad_mask.to(dtype)};
}

TORCH_LIBRARY_IMPL(ops_dcnv3, CPU, m) { RoiPoolOperators<roi_pool, roi_pool_backward>::add_to(m); }

}  // namespace
}  // namespace ops_dcnv3
