// Multi-scale deformable attention on the CPU: the loops, for one instruction set. Knows no torch and starts no
// threads; included as dcnv3_kernel.h says.
//
// The map of one level is to locate.h and gather.h what the input of DCNv3 is: queries are the output pixels, heads the
// groups. The output of a tile of queries is added up level by level.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "gather.h"
#include "locate.h"
#include "ms_deform_attn_tasks.h"
#include "simd.h"

namespace ops_dcnv3 {
namespace {

inline SamplingParams sampling_of(const MsDeformAttnParams& p, const AttentionLevel& level) {
  return {p.batch, level.height, level.width, 1, p.queries, p.heads, p.head_channels, p.points};
}

// What a task works with: the points of one level of a tile of queries, and the output of that tile.
template <typename T>
struct AttentionRoom {
  using A = accumulate_t<T>;
  Tile<T> tile;
  A *location, *weight, *sum;

  AttentionRoom(const MsDeformAttnParams& p, int64_t heads, void* memory)
      : tile(sampling_of(p, {1, 1, 0}), heads, memory) {
    char* start = static_cast<char*>(memory);
    location = reinterpret_cast<A*>(start + tile.lay_out(start));
    weight = location + 2 * points(p);
    sum = weight + points(p);
  }

  static int64_t points(const MsDeformAttnParams& p) {
    return std::max(kTilePoints, p.heads * p.points) + Simd<T>::kWidth;
  }
  static int64_t bytes(const MsDeformAttnParams& p) {
    Tile<T> tile(sampling_of(p, {1, 1, 0}), p.heads, nullptr);
    return tile.lay_out(nullptr) + (3 * points(p) + tile.pixels * p.heads * p.head_channels) * int64_t(sizeof(A));
  }

  // Takes the points that `queries` queries from `query` on have on a level, from head_begin on, one after another, and
  // finds what they read; see locate().
  void read(const MsDeformAttnParams& p, const MsDeformAttnInputs<T>& in, int64_t level, int64_t head_begin,
            int64_t query, int64_t queries) {
    A *to_location = location, *to_weight = weight;
    for (int64_t q = query; q < query + queries; ++q) {
      for (int64_t head = head_begin; head < head_begin + tile.groups; ++head) {
        const int64_t from = ((q * p.heads + head) * p.levels + level) * p.points;
        std::memcpy(to_location, in.locations + 2 * from, 2 * p.points * sizeof(A));
        std::memcpy(to_weight, in.weights + from, p.points * sizeof(A));
        to_location += 2 * p.points, to_weight += p.points;
      }
    }
    // A vector may reach beyond the last point: it is to find no other kind of points there.
    for (int i = 0; i < Simd<T>::kWidth; ++i) {
      to_location[2 * i] = to_location[-2], to_location[2 * i + 1] = to_location[-1];
      to_weight[i] = to_weight[-1];
    }
  }

  template <Corners kCorners, bool kBackward>
  bool locate_level(const SamplingParams& s, int64_t queries) {
    using S = Simd<A>;
    using V = typename S::Vector;
    const V height = S::broadcast(A(s.height)), width = S::broadcast(A(s.width));
    return locate<kCorners, kBackward>(s, queries * tile.pixel_points, tile, [&](int64_t k, V* y, V* x, V* modulation) {
      V pair[2];
      S::load_pairs(location + 2 * k, pair);
      *y = attention_position(pair[1], height);
      *x = attention_position(pair[0], width);
      *modulation = S::load(weight + k);
    });
  }
};

template <typename T>
int64_t attention_workspace_bytes(const MsDeformAttnParams& p) {
  return AttentionRoom<T>::bytes(p);
}

// Calls body(query, number of queries) for every tile of the queries begin <= n * queries + q < end.
template <typename Body>
inline void for_query_tiles(const MsDeformAttnParams& p, int64_t tile_queries, int64_t begin, int64_t end, Body body) {
  while (begin < end) {
    const int64_t image_end = (begin / p.queries + 1) * p.queries;
    const int64_t count = std::min({tile_queries, end - begin, image_end - begin});
    body(begin, count);
    begin += count;
  }
}

// Code of its own for the usual 32 channels of a head.
template <typename Function>
inline void with_head_channels(int64_t channels, Function function) {
  if (channels == 32) {
    function(std::integral_constant<int, 32>());
  } else {
    function(std::integral_constant<int, 0>());
  }
}

template <typename T>
void attention_forward(const MsDeformAttnParams& p, const MsDeformAttnInputs<T>& in, T* output, int64_t begin,
                       int64_t end, void* memory) {
  using A = accumulate_t<T>;
  AttentionRoom<T> room(p, p.heads, memory);
  const int64_t channels = p.heads * p.head_channels;
  with_head_channels(p.head_channels, [&](auto head_channels) {
    constexpr int kChannels = decltype(head_channels)::value;
    for_query_tiles(p, room.tile.pixels, begin, end, [&](int64_t query, int64_t queries) {
      std::fill(room.sum, room.sum + queries * channels, A(0));
      for (int64_t level = 0; level < p.levels; ++level) {
        const SamplingParams s = sampling_of(p, in.levels[level]);
        const T* map = in.value + (query / p.queries * p.pixels + in.levels[level].start) * channels;
        room.read(p, in, level, 0, query, queries);
        if (room.template locate_level<Corners::interior, false>(s, queries)) {
          gather<kChannels, 0, Corners::interior, true>(s, room.tile, queries, map, room.sum);
        } else {
          room.template locate_level<Corners::far, false>(s, queries);
          gather<kChannels, 0, Corners::far, true>(s, room.tile, queries, map, room.sum);
        }
      }
      for (int64_t i = 0; i < queries * channels; ++i) from_accumulate(room.sum[i], output + query * channels + i);
    });
  });
}

template <typename T>
void attention_backward(const MsDeformAttnParams& p, const MsDeformAttnInputs<T>& in, const T* grad_output,
                        const MsDeformAttnGradients<T>& grad, int64_t head_begin, int64_t head_end, int64_t begin,
                        int64_t end, void* memory) {
  using A = accumulate_t<T>;
  using S = Simd<A>;
  AttentionRoom<T> room(p, head_end - head_begin, memory);
  Tile<T>& tile = room.tile;
  const int64_t channels = p.heads * p.head_channels, first_channel = head_begin * p.head_channels;
  const bool want_points = grad.locations || grad.weights;
  with_head_channels(p.head_channels, [&](auto head_channels) {
    constexpr int kChannels = decltype(head_channels)::value;
    for_query_tiles(p, tile.pixels, begin, end, [&](int64_t query, int64_t queries) {
      const T* gradient = grad_output + query * channels + first_channel;
      for (int64_t level = 0; level < p.levels; ++level) {
        const SamplingParams s = sampling_of(p, in.levels[level]);
        const int64_t map = (query / p.queries * p.pixels + in.levels[level].start) * channels + first_channel;
        const T* value = in.value + map;
        A* grad_value = grad.value ? grad.value + map : nullptr;
        room.read(p, in, level, head_begin, query, queries);
        room.template locate_level<Corners::far, true>(s, queries);
        if (!want_points) {
          scatter<kChannels, Corners::far, true, false>(s, tile, queries, value, gradient, grad_value);
          continue;
        }
        if (grad_value) {
          scatter<kChannels, Corners::far, true, true>(s, tile, queries, value, gradient, grad_value);
        } else {
          scatter<kChannels, Corners::far, false, true>(s, tile, queries, value, gradient, grad_value);
        }
        point_gradients(s, tile, queries * tile.pixel_points, S::broadcast(A(s.height)), S::broadcast(A(s.width)));
        const A *from_location = tile.grad_offset, *from_weight = tile.grad_modulation;
        for (int64_t q = query; q < query + queries; ++q) {
          for (int64_t head = head_begin; head < head_end; ++head) {
            const int64_t to = ((q * p.heads + head) * p.levels + level) * p.points;
            if (grad.locations) std::memcpy(grad.locations + 2 * to, from_location, 2 * p.points * sizeof(A));
            if (grad.weights) std::memcpy(grad.weights + to, from_weight, p.points * sizeof(A));
            from_location += 2 * p.points, from_weight += p.points;
          }
        }
      }
    });
  });
}
}  // namespace

namespace OPS_DCNV3_ISA {
#define OPS_DCNV3_DEFINE_ATTENTION(T)                                                               \
  template <>                                                                                       \
  const MsDeformAttnTasks<T>& ms_deform_attn_tasks<T>() {                                           \
    static constexpr MsDeformAttnTasks<T> tasks{attention_workspace_bytes<T>, attention_forward<T>, \
                                                attention_backward<T>};                             \
    return tasks;                                                                                   \
  }
OPS_DCNV3_DEFINE_ATTENTION(float)
OPS_DCNV3_DEFINE_ATTENTION(double)
OPS_DCNV3_DEFINE_ATTENTION(BFloat16)
OPS_DCNV3_DEFINE_ATTENTION(Half)
#undef OPS_DCNV3_DEFINE_ATTENTION
}  // namespace OPS_DCNV3_ISA
}  // namespace ops_dcnv3
