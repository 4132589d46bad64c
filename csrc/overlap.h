// Overlap counts of two label maps: per sample and class the pixels in both, in the predicted and in the true map.
//
// This file knows neither torch nor CUDA's runtime. What is marked FASTLIVER_HD serves the CUDA kernels as well; the
// rest is the CPU's inner loops, which overlap_cpu.cpp compiles once for each instruction set.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FASTLIVER_HD __host__ __device__ __forceinline__
#else
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#define FASTLIVER_HD inline __attribute__((always_inline))
#endif

namespace fastliver {

// Counts of one class: intersection, predicted, true.
constexpr int kCounts = 3;
// Bounds the memory for counts (1.5 MiB a sample); a label map with more classes is a mistake.
constexpr int64_t kMaxClasses = 1 << 16;

enum class LabelType { kBool, kUInt8, kInt32, kInt64 };
enum class LogitType { kFloat32, kFloat16, kBFloat16 };

// A label map: the pixels of a sample lie one after the other, samples may lie apart. Strides count elements.
struct Labels {
  const void* data;
  LabelType type;
  int64_t sample_stride;
};

// A network's output: channels and pixels may lie in either order (contiguous or channels_last).
struct Logits {
  const void* data;
  LogitType type;
  int64_t channels;
  int64_t sample_stride;
  int64_t channel_stride;
  int64_t pixel_stride;
};

FASTLIVER_HD bool is_byte(LabelType type) {
  return type == LabelType::kBool || type == LabelType::kUInt8;
}

// f of the labels, as a pointer to their type, and of whether they are bool.
template <typename F>
FASTLIVER_HD auto visit(const Labels& labels, const F& f) {
  if (labels.type == LabelType::kInt64) return f(static_cast<const int64_t*>(labels.data), false);
  if (labels.type == LabelType::kInt32) return f(static_cast<const int32_t*>(labels.data), false);
  return f(static_cast<const uint8_t*>(labels.data), labels.type == LabelType::kBool);
}

FASTLIVER_HD int classes_of(const Logits& logits) {
  return logits.channels == 1 ? 2 : static_cast<int>(logits.channels);
}

// ---- Floating-point numbers as integers --------------------------------------------------------------------------
// Sign and magnitude turned into two's complement orders numbers as their values are (-0 equals 0), so thresholds and
// argmax work on the bits: one code for three formats, and vectors of 16-bit integers where no unit knows the format.

FASTLIVER_HD constexpr int32_t infinity_bits(LogitType type) {
  return type == LogitType::kFloat32 ? 0x7f800000 : type == LogitType::kFloat16 ? 0x7c00 : 0x7f80;
}

// NaN becomes the greatest of all: argmax takes the first NaN, as torch's does.
FASTLIVER_HD int32_t order_key(uint32_t bits, int32_t infinity) {
  const int32_t magnitude = static_cast<int32_t>(bits & 0x7fffffffu);
  const int32_t signed_key = (bits >> 31) != 0 ? -magnitude : magnitude;
  return magnitude > infinity ? INT32_MAX : signed_key;
}

FASTLIVER_HD int16_t order_key(uint16_t bits, int16_t infinity) {
  const int16_t magnitude = static_cast<int16_t>(bits & 0x7fff);
  const int16_t signed_key = static_cast<int16_t>((bits >> 15) != 0 ? -magnitude : magnitude);
  return magnitude > infinity ? static_cast<int16_t>(INT16_MAX) : signed_key;
}

template <typename Bits>
struct KeyOf;
template <>
struct KeyOf<uint32_t> {
  using type = int32_t;
};
template <>
struct KeyOf<uint16_t> {
  using type = int16_t;
};

// Whether a label is none of the classes; bool counts whatever is not zero as class 1.
template <typename T>
FASTLIVER_HD bool out_of_range(T value, int64_t classes) {
  return static_cast<uint64_t>(static_cast<int64_t>(value)) >= static_cast<uint64_t>(classes);
}

#if !defined(__CUDACC__)

// The number that a key of order_key stands for.
inline double value_of(int32_t key, LogitType type) {
  const int mantissa_bits = type == LogitType::kFloat32 ? 23 : type == LogitType::kFloat16 ? 10 : 7;
  const int bias = type == LogitType::kFloat16 ? 15 : 127;
  const int32_t magnitude = std::abs(key), exponent = std::max(magnitude >> mantissa_bits, 1);  // 1: subnormal too
  const int32_t mantissa = magnitude - ((exponent - 1) << mantissa_bits);
  const double value =
      magnitude == infinity_bits(type) ? HUGE_VAL : std::ldexp(mantissa, exponent - bias - mantissa_bits);
  return key < 0 ? -value : value;
}

// The key that a logit must exceed to lie above the threshold: that of the greatest number of its type that does not.
// A logit is compared as fp32, so the threshold is rounded to fp32 first; nothing exceeds NaN.
inline int32_t threshold_key(double threshold, LogitType type) {
  const float rounded = static_cast<float>(threshold);
  const int32_t infinity = infinity_bits(type);
  if (std::isnan(rounded)) return infinity;
  int32_t low = -infinity, high = infinity;
  while (low < high) {
    const int32_t middle = static_cast<int32_t>((int64_t{low} + high + 1) >> 1);
    if (value_of(middle, type) <= rounded) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// ---- Counting on the CPU -----------------------------------------------------------------------------------------
// Pixels are taken in blocks. Labels of one byte are read where they lie; others become one byte (or, with more than
// 255 classes, four) in a buffer that stays in the L1 cache, so memory is read once: bytes moved are those of both
// maps.

// Up to here a pass of vectors for each class over a block in L1 beats a histogram.
constexpr int kVectorClasses = 32;

using Bytes = uint8_t __attribute__((vector_size(32)));
constexpr int64_t kBytes = sizeof(Bytes);
// Pixels in a block: as many rounds as the bytes of an accumulator can count.
constexpr int64_t kBlock = 255 * kBytes;

FASTLIVER_HD Bytes* load(Bytes* into, const uint8_t* from) {
  std::memcpy(into, from, sizeof(Bytes));
  return into;
}

FASTLIVER_HD int64_t sum(const Bytes* vector) {
  uint8_t lanes[kBytes];
  std::memcpy(lanes, vector, sizeof(lanes));
  uint32_t total = 0;
  for (int64_t i = 0; i < kBytes; ++i) total += lanes[i];
  return total;
}

// Two classes, at most kBlock pixels: sums of zeros and ones. False, and nothing counted, if another value is there.
template <bool kPredBool, bool kTrueBool>
FASTLIVER_HD bool count_binary(const uint8_t* pred, const uint8_t* target, int64_t n, int64_t* counts) {
  Bytes both{}, predicted{}, truth{}, seen{}, a, b;
  const Bytes zero{}, one = zero + 1;
  int64_t i = 0;
#pragma GCC unroll 4
  for (; i + kBytes <= n; i += kBytes) {
    load(&a, pred + i);
    load(&b, target + i);
    if (kPredBool) a = static_cast<Bytes>(a != zero) & one;
    if (kTrueBool) b = static_cast<Bytes>(b != zero) & one;
    predicted += a;
    truth += b;
    both += a & b;
    seen |= a | b;
  }
  int64_t p = sum(&predicted), t = sum(&truth), both_total = sum(&both);
  uint8_t lanes[kBytes], any = 0;
  std::memcpy(lanes, &seen, sizeof(lanes));
  for (int64_t lane = 0; lane < kBytes; ++lane) any = static_cast<uint8_t>(any | lanes[lane]);
  for (; i < n; ++i) {
    const uint8_t x = kPredBool ? pred[i] != 0 : pred[i], y = kTrueBool ? target[i] != 0 : target[i];
    p += x;
    t += y;
    both_total += x & y;
    any = static_cast<uint8_t>(any | x | y);
  }
  if (any > 1) return false;
  counts[0] += n - (p + t - both_total);
  counts[1] += n - p;
  counts[2] += n - t;
  counts[3] += both_total;
  counts[4] += p;
  counts[5] += t;
  return true;
}

// A few classes, at most kBlock pixels: a pass for each; values out of range are counted nowhere.
FASTLIVER_HD void count_classes(const uint8_t* pred, const uint8_t* target, int64_t n, int classes, int64_t* counts) {
  for (int c = 0; c < classes; ++c, counts += kCounts) {
    Bytes both{}, predicted{}, truth{}, a, b;
    const Bytes wanted = Bytes{} + static_cast<uint8_t>(c);
    int64_t i = 0;
    for (; i + kBytes <= n; i += kBytes) {
      const Bytes is_pred = static_cast<Bytes>(*load(&a, pred + i) == wanted);  // 255 where equal: subtracting adds 1
      const Bytes is_true = static_cast<Bytes>(*load(&b, target + i) == wanted);
      both -= is_pred & is_true;
      predicted -= is_pred;
      truth -= is_true;
    }
    counts[0] += sum(&both);
    counts[1] += sum(&predicted);
    counts[2] += sum(&truth);
    for (; i < n; ++i) {
      counts[0] += pred[i] == c && target[i] == c;
      counts[1] += pred[i] == c;
      counts[2] += target[i] == c;
    }
  }
}

// Many classes: a histogram.
template <typename Code>
FASTLIVER_HD void count_histogram(const Code* pred, const Code* target, int64_t n, int64_t classes, int64_t* counts) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t a = pred[i], b = target[i];
    if (a < classes) ++counts[a * kCounts + 1];
    if (b < classes) ++counts[b * kCounts + 2];
    if (a < classes && a == b) ++counts[a * kCounts];
  }
}

// One byte (up to 255 classes) or four a pixel; what is out of range becomes `classes`, a code of no class.
template <typename Code, typename T>
FASTLIVER_HD const Code* encode(const T* values, int64_t n, int64_t classes, bool is_bool, Code* buffer) {
  if (is_bool) {
    for (int64_t i = 0; i < n; ++i) buffer[i] = values[i] != 0;
  } else {
    for (int64_t i = 0; i < n; ++i) {
      buffer[i] = out_of_range(values[i], classes) ? static_cast<Code>(classes) : static_cast<Code>(values[i]);
    }
  }
  return buffer;
}

template <typename Code>
FASTLIVER_HD const Code* codes_of(const Labels& labels, int64_t sample, int64_t begin, int64_t n, int64_t classes,
                                  Code* buffer) {
  const int64_t offset = sample * labels.sample_stride + begin;
  // Inlined, so that it has the instruction set of its caller.
  return visit(labels, [&](const auto* data, bool is_bool) __attribute__((always_inline)) {
    return encode(data + offset, n, classes, is_bool, buffer);
  });
}

// Bytes are read where they lie, unless a bool must become 0 or 1.
FASTLIVER_HD const uint8_t* bytes_of(const Labels& labels, int64_t sample, int64_t begin, int64_t n, int64_t classes,
                                     bool bool_as_it_is, uint8_t* buffer) {
  if (labels.type == LabelType::kUInt8 || (labels.type == LabelType::kBool && bool_as_it_is)) {
    return static_cast<const uint8_t*>(labels.data) + sample * labels.sample_stride + begin;
  }
  return codes_of(labels, sample, begin, n, classes, buffer);
}

FASTLIVER_HD void count_bytes(const uint8_t* pred, bool pred_bool, const uint8_t* target, bool true_bool, int64_t n,
                              int classes, int64_t* counts) {
  if (classes == 2) {
    const bool counted = pred_bool   ? true_bool ? count_binary<true, true>(pred, target, n, counts)
                                                 : count_binary<true, false>(pred, target, n, counts)
                         : true_bool ? count_binary<false, true>(pred, target, n, counts)
                                     : count_binary<false, false>(pred, target, n, counts);
    if (counted) return;
    // A value out of range: count what is in range; the shortfall tells how many are not.
    for (int64_t i = 0; i < n; ++i) {
      const int a = pred_bool ? pred[i] != 0 : pred[i], b = true_bool ? target[i] != 0 : target[i];
      if (a < 2) ++counts[a * kCounts + 1];
      if (b < 2) ++counts[b * kCounts + 2];
      if (a < 2 && a == b) ++counts[a * kCounts];
    }
  } else if (classes <= kVectorClasses) {
    count_classes(pred, target, n, classes, counts);
  } else {
    count_histogram(pred, target, n, classes, counts);
  }
}

// Adds the counts of pixels [begin, end) of one sample.
FASTLIVER_HD void count_labels(const Labels& pred, const Labels& target, int64_t sample, int64_t begin, int64_t end,
                               int classes, int64_t* counts) {
  if (classes > 255) {
    int32_t a[kBlock / 4], b[kBlock / 4];
    for (int64_t n; begin < end; begin += n) {
      n = end - begin < kBlock / 4 ? end - begin : kBlock / 4;
      count_histogram(codes_of(pred, sample, begin, n, classes, a), codes_of(target, sample, begin, n, classes, b), n,
                      classes, counts);
    }
    return;
  }
  uint8_t a[kBlock], b[kBlock];
  const bool binary = classes == 2;
  for (int64_t n; begin < end; begin += n) {
    n = end - begin < kBlock ? end - begin : kBlock;
    count_bytes(bytes_of(pred, sample, begin, n, classes, binary, a), pred.type == LabelType::kBool,
                bytes_of(target, sample, begin, n, classes, binary, b), target.type == LabelType::kBool, n, classes,
                counts);
  }
}

// Class of each of n pixels: the channel with the greatest logit, the first of equals.
template <typename Bits, typename Code, bool kDense>
FASTLIVER_HD void argmax(const Bits* logits, const Logits& layout, int64_t n, Code* codes) {
  using Key = typename KeyOf<Bits>::type;
  Key best[kBlock / 4];
  const Key infinity = static_cast<Key>(infinity_bits(layout.type));
  const int64_t stride = kDense ? 1 : layout.pixel_stride;
  for (int64_t i = 0; i < n; ++i) {
    best[i] = order_key(logits[i * stride], infinity);
    codes[i] = 0;
  }
  for (int64_t c = 1; c < layout.channels; ++c) {
    const Bits* channel = logits + c * layout.channel_stride;
    const Code code = static_cast<Code>(c);
    for (int64_t i = 0; i < n; ++i) {
      const Key key = order_key(channel[i * stride], infinity);
      codes[i] = key > best[i] ? code : codes[i];
      best[i] = key > best[i] ? key : best[i];
    }
  }
}

// 1 where the logit exceeds the threshold; a NaN does not.
template <typename Bits, typename Code, bool kDense>
FASTLIVER_HD void above(const Bits* logits, const Logits& layout, int32_t threshold, int64_t n, Code* codes) {
  using Key = typename KeyOf<Bits>::type;
  const Key infinity = static_cast<Key>(infinity_bits(layout.type)), limit = static_cast<Key>(threshold);
  const int64_t stride = kDense ? 1 : layout.pixel_stride;
  for (int64_t i = 0; i < n; ++i) {
    const Key key = order_key(logits[i * stride], infinity);
    codes[i] = static_cast<Code>((key > limit) & (key <= infinity));
  }
}

template <typename Bits, typename Code>
FASTLIVER_HD void predict_as(const Logits& logits, int64_t sample, int64_t begin, int64_t n, int32_t threshold,
                             Code* codes) {
  const Bits* first =
      static_cast<const Bits*>(logits.data) + sample * logits.sample_stride + begin * logits.pixel_stride;
  const bool dense = logits.pixel_stride == 1;
  if (logits.channels == 1 && dense) {
    above<Bits, Code, true>(first, logits, threshold, n, codes);
  } else if (logits.channels == 1) {
    above<Bits, Code, false>(first, logits, threshold, n, codes);
  } else if (dense) {
    argmax<Bits, Code, true>(first, logits, n, codes);
  } else {
    argmax<Bits, Code, false>(first, logits, n, codes);
  }
}

template <typename Code>
FASTLIVER_HD void predict(const Logits& logits, int64_t sample, int64_t begin, int64_t n, int32_t threshold,
                          Code* codes) {
  if (logits.type == LogitType::kFloat32) {
    predict_as<uint32_t>(logits, sample, begin, n, threshold, codes);
  } else {
    predict_as<uint16_t>(logits, sample, begin, n, threshold, codes);
  }
}

// The same from a network's output; no mask leaves the L1 cache. `threshold` is that of threshold_key.
FASTLIVER_HD void count_logits(const Logits& logits, const Labels& target, int64_t sample, int64_t begin, int64_t end,
                               int32_t threshold, int64_t* counts) {
  constexpr int64_t kPart = kBlock / 4;  // keys of four bytes lie beside the codes
  const int classes = classes_of(logits);
  if (classes > 255) {
    int32_t a[kPart], b[kPart];
    for (int64_t n; begin < end; begin += n) {
      n = end - begin < kPart ? end - begin : kPart;
      predict(logits, sample, begin, n, threshold, a);
      count_histogram(a, codes_of(target, sample, begin, n, classes, b), n, classes, counts);
    }
    return;
  }
  uint8_t a[kPart], b[kPart];
  for (int64_t n; begin < end; begin += n) {
    n = end - begin < kPart ? end - begin : kPart;
    predict(logits, sample, begin, n, threshold, a);
    count_bytes(a, false, bytes_of(target, sample, begin, n, classes, classes == 2, b), target.type == LabelType::kBool,
                n, classes, counts);
  }
}

inline int64_t label_at(const Labels& labels, int64_t sample, int64_t pixel) {
  const int64_t i = sample * labels.sample_stride + pixel;
  return visit(labels, [=](const auto* data, bool is_bool) -> int64_t { return is_bool ? data[i] != 0 : data[i]; });
}

// The first pixel whose label is out of range, or -1.
inline int64_t find_out_of_range(const Labels& labels, int64_t sample, int64_t pixels, int64_t classes) {
  for (int64_t i = 0; i < pixels; ++i) {
    if (out_of_range(label_at(labels, sample, i), classes)) return i;
  }
  return -1;
}

#endif  // !__CUDACC__

// ---- All samples: overlap_cpu.cpp and cuda/overlap.cu ------------------------------------------------------------
// `counts` (samples, classes, 3) is added to and must be zero before. Pixels out of range are counted in no class.

void count_labels_cpu(const Labels& pred, const Labels& target, int64_t samples, int64_t pixels, int classes,
                      int64_t* counts);
void count_logits_cpu(const Logits& logits, const Labels& target, int64_t samples, int64_t pixels, int32_t threshold,
                      int64_t* counts);

// On a device and its stream, without waiting for it; throws what the launch says.
void count_labels_cuda(const Labels& pred, const Labels& target, int64_t samples, int64_t pixels, int classes,
                       int64_t* counts, int device, void* stream);
void count_logits_cuda(const Logits& logits, const Labels& target, int64_t samples, int64_t pixels, int32_t threshold,
                       int64_t* counts, int device, void* stream);

}  // namespace fastliver
