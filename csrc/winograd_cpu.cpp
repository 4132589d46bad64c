// The loops of winograd.h: AVX-512 where the machine has it, else nothing (`has_winograd`).
//
// A chunk of tiles becomes V, 16 or 36 matrices (tiles x channels) of a few MB; then, 32 output channels at a time, the
// weights become U, products of 8 x 32 sums in registers become M, and M becomes pixels: U and M are scratch of a
// thread and get no further than its cache. Each sum runs in one order, whatever the number of threads and whichever
// other images are in the batch.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>
#include <new>

#include "winograd.h"

// From GCC 10 and Clang 9 on compilers know AVX512-BF16.
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 9 : __GNUC__ >= 10)
#ifndef __clang__
// GCC 12 warns of its own header's undefined registers wherever an intrinsic is inlined.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include "winograd_transforms.h"

namespace fastliver {
namespace {

constexpr int64_t kRows = 8;                       // of a block of sums, which with 32 columns takes 16 registers
constexpr int64_t kChunkBytes = int64_t{4} << 20;  // of V, at most: filters are read again for every chunk

struct Free {
  void operator()(Word* p) const {
    ::operator delete[](p, std::align_val_t(64));
  }
};

// A thread's memory for one purpose, kept from call to call: fresh pages cost as much as the products that fill them.
enum Purpose { kTiles, kGradientTiles, kFilters, kProducts };
template <Purpose PURPOSE>
Word* scratch(int64_t words) {
  thread_local std::unique_ptr<Word[], Free> held;
  thread_local int64_t size = 0;
  if (size < words) {
    held.reset();
    size = 0;
    held.reset(new (std::align_val_t(64)) Word[static_cast<size_t>(words)]);
    size = words;
  }
  return held.get();
}

int64_t round_up(int64_t x, int64_t to) {
  return ceil_div(x, to) * to;
}

// 8 x 32 sums over `blocks` times STEPS words: of a, whose rows lie ROW and whose steps lie STEP words apart, and of b,
// rows of 32.
template <typename Format, int64_t ROW, int64_t STEP>
AVX512 INLINE void multiply(const Word* a, int64_t a_block, const Word* b, int64_t blocks, int64_t steps, float* out) {
  __m512 sums[kRows][2];
  for (auto& row : sums) row[0] = row[1] = _mm512_setzero_ps();
  for (int64_t block = 0; block < blocks; ++block, a += a_block) {
    for (int64_t step = 0; step < steps; ++step, b += kChannelBlock) {
      const __m512i left = _mm512_loadu_si512(b), right = _mm512_loadu_si512(b + kLanes);
      for (int i = 0; i < kRows; ++i) {
        const __m512i factor = _mm512_set1_epi32(a[i * ROW + step * STEP]);
        sums[i][0] = Format::multiply_add(factor, left, sums[i][0]);
        sums[i][1] = Format::multiply_add(factor, right, sums[i][1]);
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    _mm512_storeu_ps(out + i * kChannelBlock, sums[i][0]);
    _mm512_storeu_ps(out + i * kChannelBlock + kLanes, sums[i][1]);
  }
}

// M of 32 output channels: planes of tiles [begin, end) x 32 channels.
template <typename Format, typename Scheme>
AVX512 void products(const Panels<Format, Scheme>& panels, const Word* v, int64_t begin, int64_t end, const Word* u,
                     int64_t u_plane, int64_t m_plane, float* m) {
  constexpr int64_t kWords = kChannelBlock / Format::kPack;
  for (int64_t p = 0; p < Scheme::kPlanes; ++p, v += panels.plane(), u += u_plane, m += m_plane) {
    for (int64_t t = begin; t < end; t += kRows) {
      multiply<Format, kWords, 1>(v + t * kWords, panels.block(), u, panels.blocks, kWords, m + t * kChannelBlock);
    }
  }
}

// Tiles of a chunk: a multiple of 8, and about as many in each.
template <typename Scheme>
int64_t chunk_of(const Tiles& tiles, int64_t channels, int64_t element) {
  const int64_t largest = std::max(kChunkBytes / (Scheme::kPlanes * channels * element), 4 * kRows);
  return round_up(ceil_div(tiles.count, ceil_div(tiles.count, largest)), kRows);
}

template <typename Format, typename Scheme>
void conv(const Images& x, const Filters& f, const float* bias, int64_t pad, typename Format::Element* y) {
  const int64_t h = x.h + 2 * pad - 2, w = x.w + 2 * pad - 2;
  const Tiles tiles(x.n, h, w, Scheme::kOut);
  const int64_t chunk = chunk_of<Scheme>(tiles, x.c, sizeof(typename Format::Element));
  const int64_t blocks = f.outputs / kChannelBlock;
  const int64_t u_plane = x.c / Format::kPack * kChannelBlock + kSkew, u_block = Scheme::kPlanes * u_plane;
  const int64_t m_plane = chunk * kChannelBlock + kSkew;
  // Filters that one chunk reads are transformed by the thread that reads them, else all of them first.
  const bool one_chunk = chunk >= tiles.count;
  Word* all_u = one_chunk ? nullptr : scratch<kFilters>(blocks * u_block);
  if (!one_chunk) {
    torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        transform_filters<Format, Scheme>(f, block * kChannelBlock, u_plane, all_u + block * u_block);
      }
    });
  }
  Word* v = scratch<kTiles>(Panels<Format, Scheme>{chunk, x.c / kChannelBlock}.words());
  for (int64_t first = 0; first < tiles.count; first += chunk) {
    const int64_t count = std::min(chunk, tiles.count - first);
    const Panels<Format, Scheme> panels{round_up(count, kRows), x.c / kChannelBlock};
    torch::stable::parallel_for(0, panels.rows / kRows, 1, [&](int64_t begin, int64_t end) {
      transform_tiles<Format, Scheme, false>(x, tiles, InputTile<Scheme>{pad}, first, begin * kRows, end * kRows, count,
                                             panels, v);
    });
    // With more threads than blocks of channels, several share a block's tiles.
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t share = round_up(ceil_div(panels.rows, std::max<int64_t>(1, threads / blocks)), kRows);
    const int64_t shares = ceil_div(panels.rows, share);
    torch::stable::parallel_for(0, blocks * shares, 1, [&](int64_t begin, int64_t end) {
      float* m = reinterpret_cast<float*>(scratch<kProducts>(Scheme::kPlanes * m_plane));
      Word* own_u = one_chunk ? scratch<kFilters>(u_block) : nullptr;
      for (int64_t item = begin; item < end; ++item) {
        const int64_t block = item / shares, output = block * kChannelBlock;
        const int64_t from = item % shares * share, to = std::min(from + share, panels.rows);
        if (one_chunk && (item == begin || from == 0)) transform_filters<Format, Scheme>(f, output, u_plane, own_u);
        products<Format>(panels, v, from, to, one_chunk ? own_u : all_u + block * u_block, u_plane, m_plane, m);
        transform_products<Format, Scheme>(m, m_plane, tiles, first, from, std::min(to, count),
                                           bias == nullptr ? nullptr : bias + output, h, w, f.outputs, y + output);
      }
    });
  }
}

// Sums over tiles of E o V of 32 x 32 channels.
template <typename Format, typename Scheme>
AVX512 void filter_products(const Panels<Format, Scheme>& e_panels, const Word* e,
                            const Panels<Format, Scheme>& v_panels, const Word* v, float* du) {
  for (int64_t p = 0; p < Scheme::kPlanes; ++p, e += e_panels.plane(), v += v_panels.plane()) {
    float* out = du + p * kFilterPlane;
    for (int64_t i = 0; i < kChannelBlock; i += kRows, out += kRows * kChannelBlock) {
      multiply<Format, 1, kChannelBlock>(e + i, 0, v, 1, v_panels.rows / Format::kPack, out);
    }
  }
}

template <typename Format, typename Scheme>
void weight_gradient(const Images& x, const Images& dy, int64_t pad, float* dw) {
  const Tiles tiles(x.n, dy.h, dy.w, Scheme::kOut);
  const int64_t chunk = chunk_of<Scheme>(tiles, std::max(x.c, dy.c), sizeof(typename Format::Element));
  const Panels<Format, Scheme> most_v{chunk, x.c / kChannelBlock}, most_e{chunk, dy.c / kChannelBlock};
  Word *v = scratch<kTiles>(most_v.words()), *e = scratch<kGradientTiles>(most_e.words());
  for (int64_t first = 0; first < tiles.count; first += chunk) {
    const int64_t count = std::min(chunk, tiles.count - first), rows = round_up(count, kRows);
    const Panels<Format, Scheme> v_panels{rows, most_v.blocks}, e_panels{rows, most_e.blocks};
    torch::stable::parallel_for(0, rows / kRows, 1, [&](int64_t begin, int64_t end) {
      begin *= kRows, end *= kRows;
      transform_tiles<Format, Scheme, true>(x, tiles, InputTile<Scheme>{pad}, first, begin, end, count, v_panels, v);
      transform_tiles<Format, Scheme, true>(dy, tiles, GradientTile<Scheme>{}, first, begin, end, count, e_panels, e);
    });
    // A thread's items share their input channels, whose V stays in its cache.
    torch::stable::parallel_for(0, v_panels.blocks * e_panels.blocks, 1, [&](int64_t begin, int64_t end) {
      float* du = reinterpret_cast<float*>(scratch<kProducts>(Scheme::kPlanes * kFilterPlane));
      for (int64_t item = begin; item < end; ++item) {
        const int64_t input = item / e_panels.blocks, output = item % e_panels.blocks;
        filter_products<Format>(e_panels, e + output * e_panels.block(), v_panels, v + input * v_panels.block(), du);
        add_filters<Scheme>(du, first > 0, x.c, dw + output * kChannelBlock * kTaps * x.c + input * kChannelBlock);
      }
    });
  }
}

// Whether F(4x4, 3x3) pays: below, more is lost by tiles that hang over the edge and by larger filters.
bool wants_large_tiles(int64_t h, int64_t w) {
  return h * w >= 16 * 16;
}

}  // namespace

bool has_winograd(bool bf16) {
  static const bool fp32 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  static const bool dot = fp32 && __builtin_cpu_supports("avx512bf16");
  return bf16 ? dot : fp32;
}

void winograd_conv(const Images& x, const float* weight, const float* bias, int64_t outputs, bool rotated, int64_t pad,
                   void* y) {
  const Filters filters{weight, x.c, outputs, rotated};
  if (x.bf16) {
    conv<Bf16, TwoByTwo>(x, filters, bias, pad, static_cast<uint16_t*>(y));
  } else if (wants_large_tiles(x.h + 2 * pad - 2, x.w + 2 * pad - 2)) {
    conv<Fp32, FourByFour>(x, filters, bias, pad, static_cast<float*>(y));
  } else {
    conv<Fp32, TwoByTwo>(x, filters, bias, pad, static_cast<float*>(y));
  }
}

void winograd_weight_gradient(const Images& x, const Images& dy, int64_t pad, float* dw) {
  if (x.bf16) {
    weight_gradient<Bf16, TwoByTwo>(x, dy, pad, dw);
  } else if (wants_large_tiles(dy.h, dy.w)) {
    weight_gradient<Fp32, FourByFour>(x, dy, pad, dw);
  } else {
    weight_gradient<Fp32, TwoByTwo>(x, dy, pad, dw);
  }
}

}  // namespace fastliver

#else

namespace fastliver {

bool has_winograd(bool) {
  return false;
}

void winograd_conv(const Images&, const float*, const float*, int64_t, bool, int64_t, void*) {}

void winograd_weight_gradient(const Images&, const Images&, int64_t, float*) {}

}  // namespace fastliver
#endif
