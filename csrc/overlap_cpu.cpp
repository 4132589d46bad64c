// Threads and instruction sets around the loops of overlap.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "overlap.h"

namespace fastliver {
namespace {

// One body, compiled for the machine that every x86-64 is and for AVX2, chosen when it runs. (Memory is the limit
// from AVX2 on: AVX-512 gains nothing.)
#if defined(__x86_64__) && defined(__GNUC__)
#define FASTLIVER_AVX2 1
#endif

void labels_baseline(const Labels& pred, const Labels& target, int64_t sample, int64_t begin, int64_t end, int classes,
                     int64_t* counts) {
  count_labels(pred, target, sample, begin, end, classes, counts);
}

void logits_baseline(const Logits& logits, const Labels& target, int64_t sample, int64_t begin, int64_t end,
                     int32_t threshold, int64_t* counts) {
  count_logits(logits, target, sample, begin, end, threshold, counts);
}

#if FASTLIVER_AVX2
__attribute__((target("avx2"))) void labels_avx2(const Labels& pred, const Labels& target, int64_t sample,
                                                 int64_t begin, int64_t end, int classes, int64_t* counts) {
  count_labels(pred, target, sample, begin, end, classes, counts);
}

__attribute__((target("avx2"))) void logits_avx2(const Logits& logits, const Labels& target, int64_t sample,
                                                 int64_t begin, int64_t end, int32_t threshold, int64_t* counts) {
  count_logits(logits, target, sample, begin, end, threshold, counts);
}

bool has_avx2() {
  static const bool has = __builtin_cpu_supports("avx2") != 0;
  return has;
}
#endif

// Splits all samples into pieces of pixels, counts each on its thread and adds it atomically: integers, so the
// result doesn't depend on the number of threads. `bytes` is what a pixel reads.
template <typename Count>
void over_pieces(int64_t samples, int64_t pixels, int classes, int64_t bytes, int64_t* counts, const Count& count) {
  // 256 KiB stay in L2; with many classes a piece is large against clearing and adding its counts.
  const int64_t piece = std::max<int64_t>({(int64_t{1} << 18) / bytes, 16 * int64_t{classes}, 1});
  const int64_t pieces = (pixels + piece - 1) / piece;
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 18) / (std::min(piece, pixels) * bytes));
  torch::stable::parallel_for(0, samples * pieces, grain, [&](int64_t first, int64_t last) {
    std::vector<int64_t> local(static_cast<size_t>(classes) * kCounts);
    for (int64_t number = first; number < last; ++number) {
      const int64_t sample = number / pieces, begin = number % pieces * piece;
      count(sample, begin, std::min(begin + piece, pixels), local.data());
      if (number + 1 < last && (number + 1) / pieces == sample) continue;  // the next piece adds to the same counts
      int64_t* out = counts + sample * classes * kCounts;
      for (size_t i = 0; i < local.size(); ++i) {
        if (local[i] != 0) __atomic_fetch_add(out + i, local[i], __ATOMIC_RELAXED);
        local[i] = 0;
      }
    }
  });
}

int64_t size_of(LabelType type) {
  return type == LabelType::kInt64 ? 8 : type == LabelType::kInt32 ? 4 : 1;
}

}  // namespace

void count_labels_cpu(const Labels& pred, const Labels& target, int64_t samples, int64_t pixels, int classes,
                      int64_t* counts) {
  auto* piece = &labels_baseline;
#if FASTLIVER_AVX2
  if (has_avx2()) piece = &labels_avx2;
#endif
  over_pieces(samples, pixels, classes, size_of(pred.type) + size_of(target.type), counts,
              [&](int64_t sample, int64_t begin, int64_t end, int64_t* local) {
                piece(pred, target, sample, begin, end, classes, local);
              });
}

void count_logits_cpu(const Logits& logits, const Labels& target, int64_t samples, int64_t pixels, int32_t threshold,
                      int64_t* counts) {
  auto* piece = &logits_baseline;
#if FASTLIVER_AVX2
  if (has_avx2()) piece = &logits_avx2;
#endif
  const int64_t size = logits.type == LogitType::kFloat32 ? 4 : 2;
  over_pieces(samples, pixels, classes_of(logits), logits.channels * size + size_of(target.type), counts,
              [&](int64_t sample, int64_t begin, int64_t end, int64_t* local) {
                piece(logits, target, sample, begin, end, threshold, local);
              });
}

}  // namespace fastliver
