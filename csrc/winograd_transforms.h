// Winograd's transforms in AVX-512, 16 channels at a time: images to V and E, filters to U, and back to images and
// filters. For winograd_cpu.cpp alone.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "winograd.h"

// For fp32 too: no compiler turns fp32 into bf16 by itself.
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define INLINE inline __attribute__((always_inline))

namespace fastliver {
namespace {

constexpr int64_t kTaps = 9;
constexpr int64_t kLanes = 16;
constexpr int64_t kSkew = 32;  // words between planes, which would else fall into the same sets of L1

typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

constexpr int64_t kFilterPlane = kChannelBlock * kChannelBlock + kSkew;  // words of a plane of dU

// What a multiplication takes from a lane: an fp32, or a pair of bf16.
using Word = int32_t;

struct Fp32 {
  using Element = float;
  static constexpr int64_t kPack = 1;  // elements of a word

  AVX512 static INLINE __m512 load(const float* p) {
    return _mm512_loadu_ps(p);
  }
  AVX512 static INLINE void store(float* p, __m512 x) {
    _mm512_storeu_ps(p, x);
  }
  AVX512 static INLINE __m512i pack(const __m512* x, int64_t) {
    return _mm512_castps_si512(x[0]);
  }
  AVX512 static INLINE __m512 multiply_add(__m512i a, __m512i b, __m512 sum) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
  }
};

struct Bf16 {
  using Element = uint16_t;
  static constexpr int64_t kPack = 2;

  AVX512 static INLINE __m512 load(const uint16_t* p) {
    return (__m512)(widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))) << 16);
  }
  AVX512 static INLINE Words widen(__m256i x) {
    return __builtin_convertvector((Halves)x, Words);
  }
  AVX512 static INLINE __m256i round(__m512 x) {
    return (__m256i)_mm512_cvtneps_pbh(x);
  }
  AVX512 static INLINE void store(uint16_t* p, __m512 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), round(x));
  }
  // Lane by lane a pair of x[0] and x[distance].
  AVX512 static INLINE __m512i pack(const __m512* x, int64_t distance) {
    return (__m512i)(widen(round(x[0])) | widen(round(x[distance])) << 16);
  }
  AVX512 static INLINE __m512 multiply_add(__m512i a, __m512i b, __m512 sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
};

int64_t ceil_div(int64_t x, int64_t by) {
  return (x + by - 1) / by;
}

// The tiles of a batch's outputs, image by image and row by row.
struct Tiles {
  int64_t down, across, count;

  Tiles(int64_t n, int64_t h, int64_t w, int64_t side)
      : down(ceil_div(h, side)), across(ceil_div(w, side)), count(n * down * across) {}
};

// F(2x2, 3x3): filters and rows as values of polynomials at 0, 1, -1 and infinity. Each map is one-dimensional.
struct TwoByTwo {
  static constexpr int kOut = 2, kTile = 4, kPlanes = 16;

  struct Input {  // Bt
    AVX512 static INLINE void apply(const __m512* d, __m512* v) {
      v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[2] - d[1], v[3] = d[1] - d[3];
    }
  };
  struct Filter {  // G
    AVX512 static INLINE void apply(const __m512* g, __m512* u) {
      const __m512 even = 0.5f * (g[0] + g[2]), odd = 0.5f * g[1];
      u[0] = g[0], u[1] = even + odd, u[2] = even - odd, u[3] = g[2];
    }
  };
  struct Output {  // At
    AVX512 static INLINE void apply(const __m512* m, __m512* y) {
      y[0] = m[0] + m[1] + m[2], y[1] = m[1] - m[2] - m[3];
    }
  };
  struct Gradient {  // A
    AVX512 static INLINE void apply(const __m512* y, __m512* e) {
      e[0] = y[0], e[1] = y[0] + y[1], e[2] = y[0] - y[1], e[3] = -y[1];
    }
  };
  struct FilterGradient {  // Gt
    AVX512 static INLINE void apply(const __m512* u, __m512* g) {
      const __m512 even = 0.5f * (u[1] + u[2]);
      g[0] = u[0] + even, g[1] = 0.5f * (u[1] - u[2]), g[2] = even + u[3];
    }
  };
};

// F(4x4, 3x3): at 0, a, -a, b, -b and infinity. With 3/4 and 3/2 errors are half of those with the usual 1 and 2.
struct FourByFour {
  static constexpr int kOut = 4, kTile = 6, kPlanes = 36;
  static constexpr float a = 0.75f, b = 1.5f, a2 = a * a, b2 = b * b;
  static constexpr float kZero = 1 / (a2 * b2), kA = 1 / (2 * a2 * (a2 - b2)), kB = 1 / (2 * b2 * (b2 - a2));

  struct Input {
    AVX512 static INLINE void apply(const __m512* d, __m512* v) {
      const __m512 even_a = d[4] - b2 * d[2], odd_a = a * (d[3] - b2 * d[1]);
      const __m512 even_b = d[4] - a2 * d[2], odd_b = b * (d[3] - a2 * d[1]);
      v[0] = a2 * b2 * d[0] - (a2 + b2) * d[2] + d[4], v[1] = even_a + odd_a, v[2] = even_a - odd_a;
      v[3] = even_b + odd_b, v[4] = even_b - odd_b, v[5] = a2 * b2 * d[1] - (a2 + b2) * d[3] + d[5];
    }
  };
  struct Filter {
    AVX512 static INLINE void apply(const __m512* g, __m512* u) {
      const __m512 even_a = kA * (g[0] + a2 * g[2]), odd_a = kA * a * g[1];
      const __m512 even_b = kB * (g[0] + b2 * g[2]), odd_b = kB * b * g[1];
      u[0] = kZero * g[0], u[1] = even_a + odd_a, u[2] = even_a - odd_a;
      u[3] = even_b + odd_b, u[4] = even_b - odd_b, u[5] = g[2];
    }
  };
  struct Output {
    AVX512 static INLINE void apply(const __m512* m, __m512* y) {
      const __m512 even_a = m[1] + m[2], odd_a = a * (m[1] - m[2]), even_b = m[3] + m[4], odd_b = b * (m[3] - m[4]);
      y[0] = m[0] + even_a + even_b, y[1] = odd_a + odd_b;
      y[2] = a2 * even_a + b2 * even_b, y[3] = a2 * odd_a + b2 * odd_b + m[5];
    }
  };
  struct Gradient {
    AVX512 static INLINE void apply(const __m512* y, __m512* e) {
      const __m512 even_a = y[0] + a2 * y[2], odd_a = a * (y[1] + a2 * y[3]);
      const __m512 even_b = y[0] + b2 * y[2], odd_b = b * (y[1] + b2 * y[3]);
      e[0] = y[0], e[1] = even_a + odd_a, e[2] = even_a - odd_a;
      e[3] = even_b + odd_b, e[4] = even_b - odd_b, e[5] = y[3];
    }
  };
  struct FilterGradient {
    AVX512 static INLINE void apply(const __m512* u, __m512* g) {
      const __m512 even_a = kA * (u[1] + u[2]), even_b = kB * (u[3] + u[4]);
      g[0] = kZero * u[0] + even_a + even_b, g[1] = kA * a * (u[1] - u[2]) + kB * b * (u[3] - u[4]);
      g[2] = a2 * even_a + b2 * even_b + u[5];
    }
  };
};

// A map of columns, then of rows: IN x IN to OUT x OUT.
template <typename Map, int IN, int OUT>
AVX512 INLINE void both_ways(const __m512 (&from)[IN][IN], __m512* to) {
  __m512 half[OUT][IN];
  for (int j = 0; j < IN; ++j) {
    __m512 column[IN], mapped[OUT];
    for (int i = 0; i < IN; ++i) column[i] = from[i][j];
    Map::apply(column, mapped);
    for (int i = 0; i < OUT; ++i) half[i][j] = mapped[i];
  }
  for (int i = 0; i < OUT; ++i) Map::apply(half[i], to + i * OUT);
}

// Where a transform reads: the SIDE x SIDE pixels of x at (row, column), zeros outside of the image.
template <typename Format, int SIDE>
AVX512 INLINE void load_tile(const Images& x, int64_t n, int64_t row, int64_t column, int64_t channel,
                             __m512 (&d)[SIDE][SIDE]) {
  const auto* image = static_cast<const typename Format::Element*>(x.data) + n * x.stride_n + channel;
  for (int i = 0; i < SIDE; ++i) {
    const bool in_row = row + i >= 0 && row + i < x.h;
    for (int j = 0; j < SIDE; ++j) {
      const bool inside = in_row && column + j >= 0 && column + j < x.w;
      d[i][j] = inside ? Format::load(image + (row + i) * x.stride_h + (column + j) * x.stride_w) : _mm512_setzero_ps();
    }
  }
}

// V of 16 channels of a tile: Bt d B.
template <typename Scheme>
struct InputTile {
  int64_t pad;

  template <typename Format>
  AVX512 INLINE void operator()(const Images& x, int64_t n, int64_t down, int64_t across, int64_t channel,
                                __m512* v) const {
    __m512 d[Scheme::kTile][Scheme::kTile];
    load_tile<Format>(x, n, Scheme::kOut * down - pad, Scheme::kOut * across - pad, channel, d);
    both_ways<typename Scheme::Input, Scheme::kTile, Scheme::kTile>(d, v);
  }
};

// E of 16 channels of a tile: A dy At.
template <typename Scheme>
struct GradientTile {
  template <typename Format>
  AVX512 INLINE void operator()(const Images& dy, int64_t n, int64_t down, int64_t across, int64_t channel,
                                __m512* e) const {
    __m512 d[Scheme::kOut][Scheme::kOut];
    load_tile<Format>(dy, n, Scheme::kOut * down, Scheme::kOut * across, channel, d);
    both_ways<typename Scheme::Gradient, Scheme::kOut, Scheme::kTile>(d, e);
  }
};

// How the transformed tiles of a chunk lie: by plane, by block of 32 channels, by tile.
template <typename Format, typename Scheme>
struct Panels {
  int64_t rows, blocks;  // tiles of a chunk, a multiple of 8, and channels / 32

  // In words.
  int64_t block() const {
    return rows * kChannelBlock / Format::kPack;
  }
  int64_t plane() const {
    return blocks * block() + kSkew;
  }
  int64_t words() const {
    return Scheme::kPlanes * plane();
  }
};

// Transforms tiles [begin, end) of a chunk that begins at tile `first`; those from `count` on are zero. Words hold
// neighbouring channels of a tile, or, for sums over tiles, the same channel of neighbouring tiles.
template <typename Format, typename Scheme, bool OVER_TILES, typename Transform>
AVX512 void transform_tiles(const Images& x, const Tiles& tiles, const Transform& transform, int64_t first,
                            int64_t begin, int64_t end, int64_t count, const Panels<Format, Scheme>& panels, Word* v) {
  constexpr int64_t kTogether = OVER_TILES ? Format::kPack : 1, kPlanes = Scheme::kPlanes;
  for (int64_t t = begin; t < end; t += kTogether) {
    for (int64_t channel = 0; channel < x.c; channel += kLanes) {
      __m512 values[kTogether * kPlanes];
      for (int64_t i = 0; i < kTogether; ++i) {
        const int64_t tile = first + t + i;
        if (t + i < count) {
          transform.template operator()<Format>(x, tile / (tiles.down * tiles.across), tile / tiles.across % tiles.down,
                                                tile % tiles.across, channel, values + i * kPlanes);
        } else {
          for (int p = 0; p < kPlanes; ++p) values[i * kPlanes + p] = _mm512_setzero_ps();
        }
      }
      Word* out = v + channel / kChannelBlock * panels.block() + t * kChannelBlock / Format::kPack;
      for (int p = 0; p < kPlanes; ++p, out += panels.plane()) {
        if (OVER_TILES) {
          _mm512_storeu_si512(out + channel % kChannelBlock, Format::pack(values + p, kPlanes));
        } else {
          Format::store(reinterpret_cast<typename Format::Element*>(out) + channel % kChannelBlock, values[p]);
        }
      }
    }
  }
}

// 16 rows of 16, transposed: rows of `from` lie `stride` apart, those of `to` 32.
AVX512 INLINE void transpose(const float* from, int64_t stride, float* to) {
  __m512 r[16], s[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(from + i * stride);
  for (int i = 0; i < 16; i += 2) {
    s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      const __m512d a = _mm512_castps_pd(s[i + j]), b = _mm512_castps_pd(s[i + j + 2]);
      r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  }
  // r[4 q + j]: of each of the four 4-lane parts, column j of rows 4 q to 4 q + 3.
  for (int j = 0; j < 4; ++j) {
    const __m512 low01 = _mm512_shuffle_f32x4(r[j], r[4 + j], 0x44),
                 high01 = _mm512_shuffle_f32x4(r[j], r[4 + j], 0xee);
    const __m512 low23 = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x44);
    const __m512 high23 = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xee);
    _mm512_storeu_ps(to + j * kChannelBlock, _mm512_shuffle_f32x4(low01, low23, 0x88));
    _mm512_storeu_ps(to + (4 + j) * kChannelBlock, _mm512_shuffle_f32x4(low01, low23, 0xdd));
    _mm512_storeu_ps(to + (8 + j) * kChannelBlock, _mm512_shuffle_f32x4(high01, high23, 0x88));
    _mm512_storeu_ps(to + (12 + j) * kChannelBlock, _mm512_shuffle_f32x4(high01, high23, 0xdd));
  }
}

// A filter bank as the convolution reads it: `inputs` and `outputs` are the convolution's, not the bank's, if rotated.
struct Filters {
  const float* weight;
  int64_t inputs, outputs;
  bool rotated;
};

// 9 x 16 input channels x 32 output channels of the filters, in that order.
AVX512 INLINE void load_filters(const Filters& f, int64_t input, int64_t output, float* taps) {
  for (int64_t tap = 0; tap < kTaps; ++tap, taps += kLanes * kChannelBlock) {
    if (f.rotated) {
      const float* from = f.weight + (input * kTaps + kTaps - 1 - tap) * f.outputs + output;
      for (int64_t i = 0; i < kLanes; ++i, from += kTaps * f.outputs) {
        _mm512_storeu_ps(taps + i * kChannelBlock, _mm512_loadu_ps(from));
        _mm512_storeu_ps(taps + i * kChannelBlock + kLanes, _mm512_loadu_ps(from + kLanes));
      }
    } else {
      const float* from = f.weight + (output * kTaps + tap) * f.inputs + input;
      transpose(from, kTaps * f.inputs, taps);
      transpose(from + kLanes * kTaps * f.inputs, kTaps * f.inputs, taps + kLanes);
      // The next 16: rows lie too far apart for the machine to guess.
      for (int64_t i = 0; i < kChannelBlock; ++i) {
        _mm_prefetch(reinterpret_cast<const char*>(from + kLanes + i * kTaps * f.inputs), _MM_HINT_T0);
      }
    }
  }
}

// U of 32 output channels: planes of words (inputs / kPack) x 32 channels.
template <typename Format, typename Scheme>
AVX512 void transform_filters(const Filters& f, int64_t output, int64_t plane, Word* u) {
  alignas(64) float taps[kTaps * kLanes * kChannelBlock];
  for (int64_t input = 0; input < f.inputs; input += kLanes) {
    load_filters(f, input, output, taps);
    for (int64_t i = 0; i < kLanes; i += Format::kPack) {
      for (int64_t lane = 0; lane < kChannelBlock; lane += kLanes) {
        __m512 values[Format::kPack * Scheme::kPlanes];
        for (int64_t part = 0; part < Format::kPack; ++part) {
          __m512 g[3][3];
          for (int tap = 0; tap < kTaps; ++tap) {
            g[tap / 3][tap % 3] = _mm512_load_ps(taps + (tap * kLanes + i + part) * kChannelBlock + lane);
          }
          both_ways<typename Scheme::Filter, 3, Scheme::kTile>(g, values + part * Scheme::kPlanes);
        }
        Word* out = u + (input + i) / Format::kPack * kChannelBlock + lane;
        for (int p = 0; p < Scheme::kPlanes; ++p, out += plane) {
          _mm512_storeu_si512(out, Format::pack(values + p, Scheme::kPlanes));
        }
      }
    }
  }
}

// At M A + bias of 32 output channels, of tiles [begin, end) of a chunk that begins at tile `first`, to the pixels of y
// (N, h, w, outputs).
template <typename Format, typename Scheme>
AVX512 void transform_products(const float* m, int64_t m_plane, const Tiles& tiles, int64_t first, int64_t begin,
                               int64_t end, const float* bias, int64_t h, int64_t w, int64_t outputs,
                               typename Format::Element* y) {
  constexpr int kOut = Scheme::kOut, kTile = Scheme::kTile;
  for (int64_t lane = 0; lane < kChannelBlock; lane += kLanes) {
    const __m512 offset = bias == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(bias + lane);
    for (int64_t t = begin; t < end; ++t) {
      const float* from = m + t * kChannelBlock + lane;
      __m512 products[kTile][kTile], pixels[kOut * kOut];
      for (int p = 0; p < Scheme::kPlanes; ++p) products[p / kTile][p % kTile] = _mm512_loadu_ps(from + p * m_plane);
      both_ways<typename Scheme::Output, kTile, kOut>(products, pixels);
      const int64_t tile = first + t, column = tile % tiles.across * kOut,
                    row = tile / tiles.across % tiles.down * kOut;
      auto* out = y + ((tile / (tiles.down * tiles.across) * h + row) * w + column) * outputs + lane;
      for (int i = 0; i < kOut && row + i < h; ++i, out += w * outputs) {
        for (int j = 0; j < kOut && column + j < w; ++j)
          Format::store(out + j * outputs, pixels[i * kOut + j] + offset);
      }
    }
  }
}

// Adds Gt dU G of 32 x 32 channels to dw (outputs, 3, 3, inputs), or puts it there.
template <typename Scheme>
AVX512 void add_filters(const float* du, bool add, int64_t inputs, float* dw) {
  constexpr int kTile = Scheme::kTile;
  for (int64_t output = 0; output < kChannelBlock; ++output, dw += kTaps * inputs) {
    for (int64_t lane = 0; lane < kChannelBlock; lane += kLanes) {
      const float* from = du + output * kChannelBlock + lane;
      __m512 sums[kTile][kTile], taps[kTaps];
      for (int p = 0; p < Scheme::kPlanes; ++p) sums[p / kTile][p % kTile] = _mm512_loadu_ps(from + p * kFilterPlane);
      both_ways<typename Scheme::FilterGradient, kTile, 3>(sums, taps);
      for (int tap = 0; tap < kTaps; ++tap) {
        float* to = dw + tap * inputs + lane;
        _mm512_storeu_ps(to, add ? _mm512_loadu_ps(to) + taps[tap] : taps[tap]);
      }
    }
  }
}

}  // namespace
}  // namespace fastliver
