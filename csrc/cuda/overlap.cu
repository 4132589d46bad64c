// Overlap counts on a GPU: one launch, every pixel read once, integers only, so the result never varies.
//
// Bytes moved: both maps (or the logits and the target) once, and 24 bytes a sample and class. A thread takes as many
// pixels at a time as the wider of the two types packs into 16 bytes. Two classes are counted in registers and reduced
// over warp and block; more go to a histogram in shared memory, and above kSharedClasses straight to the counts.
// Kernels exist for the pairs of types that occur; the others are read a pixel at a time by one that takes any.

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "../overlap.h"

namespace fastliver {
namespace {

constexpr int kThreads = 256;
// With the slot for values out of range, 3 * 4 bytes a class: within the 48 KiB that every launch may use.
constexpr int kSharedClasses = 4095;

using Count = unsigned long long;

// What one load instruction takes.
template <int kSize>
struct Word;
template <>
struct Word<1> {
  using type = uint8_t;
};
template <>
struct Word<2> {
  using type = uint16_t;
};
template <>
struct Word<4> {
  using type = uint32_t;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};

// kPixels values in one load of at most 16 bytes; the address is aligned to it.
template <int kPixels, typename T>
struct alignas(sizeof(T) * kPixels) Pack {
  T values[kPixels];
};

template <int kPixels, typename T>
__device__ __forceinline__ Pack<kPixels, T> load(const T* from) {
  using Access = typename Word<sizeof(Pack<kPixels, T>)>::type;
  Pack<kPixels, T> pack;
  *reinterpret_cast<Access*>(&pack) = __ldg(reinterpret_cast<const Access*>(from));
  return pack;
}

template <typename T>
FASTLIVER_HD int code_of(T value, bool is_bool, int classes) {
  if (is_bool) return value != 0;
  return out_of_range(value, classes) ? classes : static_cast<int>(value);  // the slot after the last class
}

// A label map, of bytes (bool too), int32 or int64.
template <typename T>
struct LabelSource {
  static constexpr int kBytesPerPixel = sizeof(T);
  static constexpr bool kPacked = true;
  const T* data;
  int64_t sample_stride;
  bool is_bool;
  int classes;

  __device__ __forceinline__ int at(int64_t sample, int64_t pixel) const {
    return code_of(data[sample * sample_stride + pixel], is_bool, classes);
  }
  template <int kPixels>
  __device__ __forceinline__ void load_codes(int64_t sample, int64_t pixel, int (&codes)[kPixels]) const {
    const auto pack = load<kPixels>(data + sample * sample_stride + pixel);
#pragma unroll
    for (int i = 0; i < kPixels; ++i) codes[i] = code_of(pack.values[i], is_bool, classes);
  }
  // Pixels to go before a load of kPixels is aligned; kPixels when none ever is.
  template <int kPixels>
  __device__ __forceinline__ int head(int64_t sample) const {
    const auto address = reinterpret_cast<uint64_t>(data + sample * sample_stride);
    return static_cast<int>((kPixels - address / sizeof(T) % kPixels) % kPixels);
  }
};

// A label map of a type that the kernel learns when it runs.
struct AnyLabels {
  static constexpr bool kPacked = false;
  Labels labels;
  int classes;

  FASTLIVER_HD int at(int64_t sample, int64_t pixel) const {
    return visit(labels, [&](const auto* data, bool is_bool) {
      return code_of(data[sample * labels.sample_stride + pixel], is_bool, classes);
    });
  }
};

// The class that a network's output names: above the threshold, or the channel with the greatest logit.
template <typename Bits>
struct LogitSource {
  using Key = typename KeyOf<Bits>::type;
  static constexpr int kBytesPerPixel = sizeof(Bits);
  static constexpr bool kPacked = true;
  const Bits* data;
  int64_t sample_stride, channel_stride, pixel_stride;
  int channels;
  Key infinity, threshold;

  __device__ __forceinline__ int at(int64_t sample, int64_t pixel) const {
    const Bits* from = data + sample * sample_stride + pixel * pixel_stride;
    Key best = order_key(*from, infinity);
    if (channels == 1) return best > threshold && best <= infinity;
    int code = 0;
    for (int c = 1; c < channels; ++c) {
      const Key key = order_key(from[c * channel_stride], infinity);
      if (key > best) {
        best = key;
        code = c;
      }
    }
    return code;
  }
  template <int kPixels>
  __device__ __forceinline__ void load_codes(int64_t sample, int64_t pixel, int (&codes)[kPixels]) const {
    const Bits* from = data + sample * sample_stride + pixel;
    Key best[kPixels];
    const auto first = load<kPixels>(from);
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      best[i] = order_key(first.values[i], infinity);
      codes[i] = channels == 1 && best[i] > threshold && best[i] <= infinity;
    }
    for (int c = 1; c < channels; ++c) {
      const auto pack = load<kPixels>(from + c * channel_stride);
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        const Key key = order_key(pack.values[i], infinity);
        codes[i] = key > best[i] ? c : codes[i];
        best[i] = key > best[i] ? key : best[i];
      }
    }
  }
  template <int kPixels>
  __device__ __forceinline__ int head(int64_t sample) const {
    if (pixel_stride != 1 || (channels > 1 && channel_stride % kPixels != 0)) return kPixels;
    const auto address = reinterpret_cast<uint64_t>(data + sample * sample_stride);
    return static_cast<int>((kPixels - address / sizeof(Bits) % kPixels) % kPixels);
  }
};

// Counts of two classes in registers.
struct Registers {
  uint32_t counts[2][kCounts] = {};

  __device__ __forceinline__ void add(int a, int b) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      counts[c][0] += a == c && b == c;
      counts[c][1] += a == c;
      counts[c][2] += b == c;
    }
  }
  // Four pixels in a word each: every byte that equals a class becomes 1, dp4a adds them up.
  __device__ __forceinline__ void add_bytes(uint32_t a, uint32_t b, bool a_bool, bool b_bool) {
    constexpr uint32_t kOnes = 0x01010101u;
    if (a_bool) a = __vminu4(a, kOnes);
    if (b_bool) b = __vminu4(b, kOnes);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const uint32_t is_a = __vcmpeq4(a, c * kOnes) & kOnes, is_b = __vcmpeq4(b, c * kOnes) & kOnes;
      counts[c][0] = __dp4a(is_a & is_b, kOnes, counts[c][0]);
      counts[c][1] = __dp4a(is_a, kOnes, counts[c][1]);
      counts[c][2] = __dp4a(is_b, kOnes, counts[c][2]);
    }
  }
  // Every thread of the block calls it: warps by shuffles, the block through shared memory, one atomic a count.
  __device__ __forceinline__ void flush(Count* out) {
    __shared__ uint32_t partial[kThreads / 32][2 * kCounts];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < 2 * kCounts; ++i) {
      uint32_t value = counts[i / kCounts][i % kCounts];
#pragma unroll
      for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
      if (lane == 0) partial[warp][i] = value;
    }
    __syncthreads();
    if (threadIdx.x < 2 * kCounts) {
      Count total = 0;
      for (int w = 0; w < kThreads / 32; ++w) total += partial[w][threadIdx.x];
      if (total != 0) atomicAdd(out + threadIdx.x, total);
    }
  }
};

// Not inlined: a thread's 16 pixels would hold it 16 times.
__device__ __noinline__ void add_run(uint32_t* shared, Count* out, int classes, int a, int b, uint32_t run) {
  if (shared != nullptr) {
    if (a == b) atomicAdd(shared + a * kCounts, run);
    atomicAdd(shared + a * kCounts + 1, run);
    atomicAdd(shared + b * kCounts + 2, run);
  } else {
    if (a == b && a < classes) atomicAdd(out + int64_t{a} * kCounts, static_cast<Count>(run));
    if (a < classes) atomicAdd(out + int64_t{a} * kCounts + 1, static_cast<Count>(run));
    if (b < classes) atomicAdd(out + int64_t{b} * kCounts + 2, static_cast<Count>(run));
  }
}

// Counts in shared memory, or in the result itself. Neighbours are mostly of one class: a thread adds a run at once.
struct Histogram {
  uint32_t* shared;  // (classes + 1, 3), the last slot for values out of range; null: count in `out`
  Count* out;
  int classes;
  int a = 0, b = 0;
  uint32_t run = 0;

  __device__ __forceinline__ void finish_run() {
    if (run > 0) add_run(shared, out, classes, a, b, run);
    run = 0;
  }
  __device__ __forceinline__ void add(int next_a, int next_b) {
    if (next_a != a || next_b != b) {
      finish_run();
      a = next_a;
      b = next_b;
    }
    ++run;
  }
};

// Calls add for this thread's pixels of a sample: up to an aligned address, in packs, and what is left after them.
template <typename Pred, typename True, typename Counter>
__device__ __forceinline__ void over_pixels(const Pred& pred, const True& target, int64_t sample, int64_t pixels,
                                            int block, int blocks, Counter& counter) {
  const int64_t thread = static_cast<int64_t>(block) * kThreads + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(blocks) * kThreads;
  int64_t begin = 0, packed = 0;
  if constexpr (Pred::kPacked && True::kPacked) {
    constexpr int kWider = Pred::kBytesPerPixel > True::kBytesPerPixel ? Pred::kBytesPerPixel : True::kBytesPerPixel;
    constexpr int kPixels = 16 / kWider;
    const int head = pred.template head<kPixels>(sample);
    if (head < kPixels && head == target.template head<kPixels>(sample) && head < pixels) {
      begin = head;
      packed = (pixels - begin) / kPixels * kPixels;
    }
    for (int64_t i = thread * kPixels; i < packed; i += threads * kPixels) {
      int a[kPixels], b[kPixels];
      pred.template load_codes<kPixels>(sample, begin + i, a);
      target.template load_codes<kPixels>(sample, begin + i, b);
#pragma unroll
      for (int k = 0; k < kPixels; ++k) counter.add(a[k], b[k]);
    }
  }
  const int64_t rest = pixels - packed;  // all of them where nothing is aligned
  for (int64_t i = thread; i < rest; i += threads) {
    const int64_t pixel = i < begin ? i : i + packed;
    counter.add(pred.at(sample, pixel), target.at(sample, pixel));
  }
}

// Two classes, a byte a pixel: the masks of this package, 16 pixels at a time.
__device__ __forceinline__ void over_bytes(const LabelSource<uint8_t>& pred, const LabelSource<uint8_t>& target,
                                           int64_t sample, int64_t pixels, int block, int blocks, Registers& counter) {
  const int64_t thread = static_cast<int64_t>(block) * kThreads + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(blocks) * kThreads;
  const int head = pred.head<16>(sample);
  int64_t begin = 0, packs = 0;
  if (head == target.head<16>(sample) && head < pixels) {
    begin = head;
    packs = (pixels - begin) / 16;
  }
  const auto* a = reinterpret_cast<const uint4*>(pred.data + sample * pred.sample_stride + begin);
  const auto* b = reinterpret_cast<const uint4*>(target.data + sample * target.sample_stride + begin);
#pragma unroll 4
  for (int64_t pack = thread; pack < packs; pack += threads) {
    const uint4 x = __ldg(a + pack), y = __ldg(b + pack);
    counter.add_bytes(x.x, y.x, pred.is_bool, target.is_bool);
    counter.add_bytes(x.y, y.y, pred.is_bool, target.is_bool);
    counter.add_bytes(x.z, y.z, pred.is_bool, target.is_bool);
    counter.add_bytes(x.w, y.w, pred.is_bool, target.is_bool);
  }
  const int64_t rest = pixels - packs * 16;
  for (int64_t i = thread; i < rest; i += threads) {
    const int64_t pixel = i < begin ? i : i + packs * 16;
    counter.add(pred.at(sample, pixel), target.at(sample, pixel));
  }
}

template <typename Pred, typename True>
__global__ void __launch_bounds__(kThreads)
    in_registers(Pred pred, True target, int64_t pixels, int blocks, Count* counts) {
  constexpr bool kBytes = std::is_same<Pred, LabelSource<uint8_t>>::value && std::is_same<Pred, True>::value;
  const int64_t sample = blockIdx.x / blocks;
  const int block = blockIdx.x % blocks;
  Registers counter;
  if constexpr (kBytes) {
    over_bytes(pred, target, sample, pixels, block, blocks, counter);
  } else {
    over_pixels(pred, target, sample, pixels, block, blocks, counter);
  }
  counter.flush(counts + sample * 2 * kCounts);
}

template <typename Pred, typename True>
__global__ void __launch_bounds__(kThreads)
    in_histogram(Pred pred, True target, int64_t pixels, int classes, int blocks, bool in_shared, Count* counts) {
  extern __shared__ uint32_t bins[];
  const int64_t sample = blockIdx.x / blocks;
  const int block = blockIdx.x % blocks;
  Count* out = counts + sample * classes * kCounts;
  if (in_shared) {
    for (int i = threadIdx.x; i < (classes + 1) * kCounts; i += kThreads) bins[i] = 0;
    __syncthreads();
  }
  Histogram counter{in_shared ? bins : nullptr, out, classes};
  over_pixels(pred, target, sample, pixels, block, blocks, counter);
  counter.finish_run();
  if (in_shared) {
    __syncthreads();
    for (int i = threadIdx.x; i < classes * kCounts; i += kThreads) {
      if (bins[i] != 0) atomicAdd(out + i, static_cast<Count>(bins[i]));
    }
  }
}

void check(cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("overlap counts on CUDA: ") + cudaGetErrorString(error));
  }
}

// The runtime inside this library keeps a current device of its own.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_));
    if (before_ != device) check(cudaSetDevice(device));
    changed_ = before_ != device;
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

template <typename Pred, typename True>
void launch(const Pred& pred, const True& target, int64_t samples, int64_t pixels, int classes, int64_t* counts,
            int device, cudaStream_t stream) {
  const OnDevice guard(device);
  int processors = 0;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  // Enough blocks to fill the GPU eight times over, none with less than 4 packs a thread, none that could overflow
  // its 32-bit counts.
  const int64_t wanted = (int64_t{8} * processors + samples - 1) / samples;
  const int64_t useful = (pixels + kThreads * 64 - 1) / (kThreads * 64);
  const int64_t needed = (pixels >> 31) + 1;
  const int64_t blocks = std::max(std::min(wanted, useful), needed);
  if (samples > INT32_MAX / blocks) throw std::invalid_argument("pred has too many samples for one launch");
  const auto grid = static_cast<unsigned>(samples * blocks);
  auto* out = reinterpret_cast<Count*>(counts);
  if (classes == 2) {
    in_registers<<<grid, kThreads, 0, stream>>>(pred, target, pixels, static_cast<int>(blocks), out);
  } else {
    const bool shared = classes <= kSharedClasses;
    const size_t bytes = shared ? (classes + 1) * kCounts * sizeof(uint32_t) : 0;
    in_histogram<<<grid, kThreads, bytes, stream>>>(pred, target, pixels, classes, static_cast<int>(blocks), shared,
                                                    out);
  }
  check(cudaGetLastError());
}

template <typename T>
LabelSource<T> source(const Labels& labels, int classes) {
  return {static_cast<const T*>(labels.data), labels.sample_stride, labels.type == LabelType::kBool, classes};
}

template <typename Bits>
LogitSource<Bits> source(const Logits& logits, int32_t threshold) {
  using Key = typename KeyOf<Bits>::type;
  return {static_cast<const Bits*>(logits.data),
          logits.sample_stride,
          logits.channel_stride,
          logits.pixel_stride,
          static_cast<int>(logits.channels),
          static_cast<Key>(infinity_bits(logits.type)),
          static_cast<Key>(threshold)};
}

template <typename Bits>
void launch_logits(const Logits& logits, const Labels& target, int64_t samples, int64_t pixels, int32_t threshold,
                   int64_t* counts, int device, cudaStream_t stream) {
  const int classes = classes_of(logits);
  const auto pred = source<Bits>(logits, threshold);
  if (is_byte(target.type)) {
    launch(pred, source<uint8_t>(target, classes), samples, pixels, classes, counts, device, stream);
  } else if (target.type == LabelType::kInt64) {
    launch(pred, source<int64_t>(target, classes), samples, pixels, classes, counts, device, stream);
  } else {
    launch(pred, AnyLabels{target, classes}, samples, pixels, classes, counts, device, stream);
  }
}

}  // namespace

void count_labels_cuda(const Labels& pred, const Labels& target, int64_t samples, int64_t pixels, int classes,
                       int64_t* counts, int device, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const auto with = [&](const auto& a, const auto& b) { launch(a, b, samples, pixels, classes, counts, device, on); };
  if (is_byte(pred.type) && is_byte(target.type)) {
    with(source<uint8_t>(pred, classes), source<uint8_t>(target, classes));
  } else if (pred.type == LabelType::kInt64 && target.type == LabelType::kInt64) {
    with(source<int64_t>(pred, classes), source<int64_t>(target, classes));
  } else if (pred.type == LabelType::kInt64 && is_byte(target.type)) {  // torch.argmax against labels
    with(source<int64_t>(pred, classes), source<uint8_t>(target, classes));
  } else if (pred.type == LabelType::kInt32 && target.type == LabelType::kInt32) {
    with(source<int32_t>(pred, classes), source<int32_t>(target, classes));
  } else {
    with(AnyLabels{pred, classes}, AnyLabels{target, classes});
  }
}

void count_logits_cuda(const Logits& logits, const Labels& target, int64_t samples, int64_t pixels, int32_t threshold,
                       int64_t* counts, int device, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (logits.type == LogitType::kFloat32) {
    launch_logits<uint32_t>(logits, target, samples, pixels, threshold, counts, device, on);
  } else {
    launch_logits<uint16_t>(logits, target, samples, pixels, threshold, counts, device, on);
  }
}

}  // namespace fastliver
