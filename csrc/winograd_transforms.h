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

constexpr int64_t kPlanes = 16, kTaps = 9;
constexpr int64_t kLanes = 16;
constexpr int64_t kSkew = 32;  // words between planes, which would else fall into the same sets of L1

typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

constexpr int64_t kFilterPlane = kChannelBlock * kChannelBlock + kSkew;  // words of a plane of dU

using Word = int32_t;  // what a multiplication takes from a lane: an fp32, or a pair of bf16

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

// The tiles of a batch's outputs, image by image and row by row.
struct Tiles {
  int64_t down, across, count;

  Tiles(int64_t n, int64_t out_h, int64_t out_w)
      : down((out_h + 1) / 2), across((out_w + 1) / 2), count(n * down * across) {}
};

// Bt d B, in place.
AVX512 INLINE void transform_input(__m512 (&d)[4][4]) {
  for (int i = 0; i < 4; ++i) {
    const __m512 a = d[0][i], b = d[1][i], c = d[2][i], e = d[3][i];
    d[0][i] = a - c, d[1][i] = b + c, d[2][i] = c - b, d[3][i] = b - e;
  }
  for (int i = 0; i < 4; ++i) {
    const __m512 a = d[i][0], b = d[i][1], c = d[i][2], e = d[i][3];
    d[i][0] = a - c, d[i][1] = b + c, d[i][2] = c - b, d[i][3] = b - e;
  }
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
struct InputTile {
  int64_t pad;

  template <typename Format>
  AVX512 INLINE void operator()(const Images& x, int64_t n, int64_t down, int64_t across, int64_t channel,
                                __m512* v) const {
    __m512 d[4][4];
    load_tile<Format>(x, n, 2 * down - pad, 2 * across - pad, channel, d);
    transform_input(d);
    for (int p = 0; p < kPlanes; ++p) v[p] = d[p / 4][p % 4];
  }
};

// E of 16 channels of a tile: A dy At.
struct GradientTile {
  template <typename Format>
  AVX512 INLINE void operator()(const Images& dy, int64_t n, int64_t down, int64_t across, int64_t channel,
                                __m512* v) const {
    __m512 d[2][2];
    load_tile<Format>(dy, n, 2 * down, 2 * across, channel, d);
    __m512 rows[4][2];
    for (int i = 0; i < 2; ++i) {
      rows[0][i] = d[0][i], rows[1][i] = d[0][i] + d[1][i], rows[2][i] = d[0][i] - d[1][i], rows[3][i] = -d[1][i];
    }
    for (int i = 0; i < 4; ++i) {
      v[4 * i] = rows[i][0], v[4 * i + 1] = rows[i][0] + rows[i][1];
      v[4 * i + 2] = rows[i][0] - rows[i][1], v[4 * i + 3] = -rows[i][1];
    }
  }
};

// How the transformed tiles of a chunk lie: by plane, by block of 32 channels, by tile.
template <typename Format>
struct Panels {
  int64_t rows, blocks;  // tiles of a chunk, a multiple of 8, and channels / 32

  int64_t block() const {
    return rows * kChannelBlock / Format::kPack;
  }  // words
  int64_t plane() const {
    return blocks * block() + kSkew;
  }
  int64_t words() const {
    return kPlanes * plane();
  }
};

// Transforms tiles [begin, end) of a chunk that begins at tile `first`; those from `count` on are zero. Words hold
// neighbouring channels of a tile, or, for sums over tiles, the same channel of neighbouring tiles.
template <typename Format, bool OVER_TILES, typename Transform>
AVX512 void transform_tiles(const Images& x, const Tiles& tiles, const Transform& transform, int64_t first,
                            int64_t begin, int64_t end, int64_t count, const Panels<Format>& panels, Word* v) {
  constexpr int64_t kTogether = OVER_TILES ? Format::kPack : 1;
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
      for (int64_t i = 0; i < kChannelBlock; ++i) {  // the next 16: rows lie too far apart for the machine to guess
        _mm_prefetch(reinterpret_cast<const char*>(from + kLanes + i * kTaps * f.inputs), _MM_HINT_T0);
      }
    }
  }
}

// U of 32 output channels: 16 planes of words (inputs / words' elements) x 32 channels.
template <typename Format>
AVX512 void transform_filters(const Filters& f, int64_t output, int64_t plane, Word* u) {
  alignas(64) float taps[kTaps * kLanes * kChannelBlock];
  const __m512 half = _mm512_set1_ps(0.5f);
  for (int64_t input = 0; input < f.inputs; input += kLanes) {
    load_filters(f, input, output, taps);
    for (int64_t i = 0; i < kLanes; i += Format::kPack) {
      for (int64_t lane = 0; lane < kChannelBlock; lane += kLanes) {
        __m512 values[Format::kPack * kPlanes];
        for (int64_t part = 0; part < Format::kPack; ++part) {
          __m512 columns[4][3];
          for (int j = 0; j < 3; ++j) {
            const float* from = taps + ((j * kLanes) + i + part) * kChannelBlock + lane;
            const __m512 a = _mm512_loadu_ps(from), b = _mm512_loadu_ps(from + 3 * kLanes * kChannelBlock);
            const __m512 c = _mm512_loadu_ps(from + 6 * kLanes * kChannelBlock), sum = half * (a + c);
            columns[0][j] = a, columns[1][j] = sum + half * b, columns[2][j] = sum - half * b, columns[3][j] = c;
          }
          __m512* value = values + part * kPlanes;
          for (int j = 0; j < 4; ++j) {
            const __m512 a = columns[j][0], b = columns[j][1], c = columns[j][2], sum = half * (a + c);
            value[4 * j] = a, value[4 * j + 1] = sum + half * b, value[4 * j + 2] = sum - half * b;
            value[4 * j + 3] = c;
          }
        }
        Word* out = u + (input + i) / Format::kPack * kChannelBlock + lane;
        for (int p = 0; p < kPlanes; ++p, out += plane) {
          _mm512_storeu_si512(out, Format::pack(values + p, kPlanes));
        }
      }
    }
  }
}

// At M A + bias of 32 output channels, of tiles [begin, end) of a chunk that begins at tile `first`, to the pixels of y
// (N, h, w, outputs).
template <typename Format>
AVX512 void transform_products(const float* m, int64_t m_plane, const Tiles& tiles, int64_t first, int64_t begin,
                               int64_t end, const float* bias, int64_t h, int64_t w, int64_t outputs,
                               typename Format::Element* y) {
  for (int64_t lane = 0; lane < kChannelBlock; lane += kLanes) {
    const __m512 offset = bias == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(bias + lane);
    for (int64_t t = begin; t < end; ++t) {
      const float* from = m + t * kChannelBlock + lane;
      __m512 rows[2][4];
      for (int j = 0; j < 4; ++j) {
        const __m512 a = _mm512_loadu_ps(from + j * m_plane), b = _mm512_loadu_ps(from + (4 + j) * m_plane);
        const __m512 c = _mm512_loadu_ps(from + (8 + j) * m_plane), d = _mm512_loadu_ps(from + (12 + j) * m_plane);
        rows[0][j] = a + b + c, rows[1][j] = b - c - d;
      }
      const int64_t tile = first + t, column = tile % tiles.across * 2, row = tile / tiles.across % tiles.down * 2;
      auto* out = y + ((tile / (tiles.down * tiles.across) * h + row) * w + column) * outputs + lane;
      for (int i = 0; i < 2 && row + i < h; ++i, out += w * outputs) {
        const __m512* r = rows[i];
        Format::store(out, r[0] + r[1] + r[2] + offset);
        if (column + 1 < w) Format::store(out + outputs, r[1] - r[2] - r[3] + offset);
      }
    }
  }
}

// Adds Gt dU G of 32 x 32 channels to dw (outputs, 3, 3, inputs), or puts it there.
AVX512 void add_filters(const float* du, bool add, int64_t inputs, float* dw) {
  const __m512 half = _mm512_set1_ps(0.5f);
  for (int64_t output = 0; output < kChannelBlock; ++output, dw += kTaps * inputs) {
    for (int64_t lane = 0; lane < kChannelBlock; lane += kLanes) {
      const float* from = du + output * kChannelBlock + lane;
      __m512 rows[3][4];
      for (int j = 0; j < 4; ++j) {
        const __m512 b = half * _mm512_loadu_ps(from + (4 + j) * kFilterPlane),
                     c = half * _mm512_loadu_ps(from + (8 + j) * kFilterPlane);
        rows[0][j] = _mm512_loadu_ps(from + j * kFilterPlane) + (b + c), rows[1][j] = b - c;
        rows[2][j] = (b + c) + _mm512_loadu_ps(from + (12 + j) * kFilterPlane);
      }
      for (int i = 0; i < 3; ++i) {
        const __m512 b = half * rows[i][1], c = half * rows[i][2];
        const __m512 taps[3] = {rows[i][0] + (b + c), b - c, (b + c) + rows[i][3]};
        for (int j = 0; j < 3; ++j) {
          float* to = dw + (3 * i + j) * inputs + lane;
          _mm512_storeu_ps(to, add ? _mm512_loadu_ps(to) + taps[j] : taps[j]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace fastliver
