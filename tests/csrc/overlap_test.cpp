// The torch-free core against definitions a reader can check by eye. Built and run by test_core.py, with sanitizers:
// buffers are allocated to the byte, so a vector load past an end is an error.

#include "../../csrc/overlap.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

namespace {

using namespace fastliver;

int failures = 0;

void expect(bool holds, const char* what, long long a = 0, long long b = 0, long long c = 0) {
  if (holds) return;
  if (++failures <= 20) std::printf("FAILED: %s (%lld, %lld, %lld)\n", what, a, b, c);
}

template <typename T>
constexpr LabelType type_of() {
  return sizeof(T) == 1 ? LabelType::kUInt8 : sizeof(T) == 4 ? LabelType::kInt32 : LabelType::kInt64;
}

std::vector<int64_t> plain(const std::vector<int64_t>& pred, const std::vector<int64_t>& target, int classes) {
  std::vector<int64_t> counts(static_cast<size_t>(classes) * kCounts);
  for (size_t i = 0; i < pred.size(); ++i) {
    for (int64_t c = 0; c < classes; ++c) {
      counts[c * kCounts] += pred[i] == c && target[i] == c;
      counts[c * kCounts + 1] += pred[i] == c;
      counts[c * kCounts + 2] += target[i] == c;
    }
  }
  return counts;
}

template <typename A, typename B>
void labels_agree(std::mt19937& random, int64_t pixels, int classes, int64_t beyond) {
  std::vector<A> a(pixels);
  std::vector<B> b(pixels);
  std::vector<int64_t> wide_a, wide_b;
  for (int64_t i = 0; i < pixels; ++i) {
    a[i] = static_cast<A>(random() % static_cast<uint64_t>(classes + beyond));
    b[i] = static_cast<B>(random() % static_cast<uint64_t>(classes + beyond));
    if (beyond > 0 && sizeof(A) > 1 && i % 7 == 0) a[i] = static_cast<A>(-1);
    if (beyond > 0 && sizeof(B) > 4 && i % 5 == 0) b[i] = static_cast<B>(int64_t{1} << 40);
    wide_a.push_back(static_cast<int64_t>(a[i]));
    wide_b.push_back(static_cast<int64_t>(b[i]));
  }
  std::vector<int64_t> counts(static_cast<size_t>(classes) * kCounts);
  const Labels pred{a.data(), type_of<A>(), 0}, target{b.data(), type_of<B>(), 0};
  const int64_t middle = pixels / 3;  // pieces add up, wherever they begin
  count_labels(pred, target, 0, 0, middle, classes, counts.data());
  count_labels(pred, target, 0, middle, pixels, classes, counts.data());
  expect(counts == plain(wide_a, wide_b, classes), "labels", pixels, classes, sizeof(A) * 10 + sizeof(B));
}

void bools_count_what_is_not_zero() {
  const std::vector<uint8_t> a{0, 1, 63, 255, 0}, b{2, 0, 255, 1, 0};
  const Labels pred{a.data(), LabelType::kBool, 0}, target{b.data(), LabelType::kBool, 0};
  std::vector<int64_t> two(6), three(9);
  count_labels(pred, target, 0, 0, 5, 2, two.data());
  expect(two == std::vector<int64_t>({1, 2, 2, 2, 3, 3}), "bool, two classes");
  count_labels(pred, target, 0, 0, 5, 3, three.data());
  expect(three == std::vector<int64_t>({1, 2, 2, 2, 3, 3, 0, 0, 0}), "bool, three classes");
}

// Every pixel of one class: what overflows first.
void uniform_maps(int classes, uint8_t value, LabelType type) {
  const std::vector<uint8_t> map(100003, value);
  std::vector<int64_t> counts(static_cast<size_t>(classes) * kCounts), expected(counts.size());
  const Labels labels{map.data(), type, 0};
  count_labels(labels, labels, 0, 0, 100003, classes, counts.data());
  const size_t at = (type == LabelType::kBool ? value != 0 : value) * size_t{kCounts};
  expected[at] = expected[at + 1] = expected[at + 2] = 100003;
  expect(counts == expected, "uniform", classes, value);
}

void samples_lie_apart() {
  const std::vector<uint8_t> a{1, 0, 9, 9, 1, 1}, b{1, 1, 9, 0, 1};
  std::vector<int64_t> counts(6);
  count_labels({a.data(), LabelType::kUInt8, 4}, {b.data(), LabelType::kUInt8, 3}, 1, 0, 2, 2, counts.data());
  expect(counts == std::vector<int64_t>({0, 0, 1, 1, 2, 1}), "sample stride");
}

// Every one of the 65,536 numbers of 16 bits.
void keys_order_as_values_do(LogitType type) {
  const int16_t infinity = static_cast<int16_t>(infinity_bits(type));
  for (const double threshold : {0.0, -0.0, 0.5, 0.1, -3.0, 65504.0, 1e5, -1e5, 1e-8, -1e-8, 3.3e38}) {
    const int32_t limit = threshold_key(threshold, type);
    for (uint32_t bits = 0; bits < 65536; ++bits) {
      const int32_t magnitude = static_cast<int32_t>(bits & 0x7fff);
      const int16_t key = order_key(static_cast<uint16_t>(bits), infinity);
      if (magnitude > infinity) {
        expect(key == INT16_MAX, "NaN is the greatest", bits);
        continue;
      }
      const double size = value_of(magnitude, type);
      const double value = bits >> 15 != 0 ? -size : size;
      expect((key > limit) == (value > static_cast<double>(static_cast<float>(threshold))), "threshold", bits, limit);
    }
  }
  expect(threshold_key(HUGE_VAL, type) == infinity, "nothing exceeds infinity");
  expect(threshold_key(-HUGE_VAL, type) == -infinity, "all but -infinity exceeds it");
  expect(threshold_key(std::numeric_limits<double>::quiet_NaN(), type) == infinity, "nothing exceeds NaN");
}

void logits_agree(std::mt19937& random, int64_t pixels, int channels, bool channels_last) {
  std::normal_distribution<float> normal;
  std::vector<float> logits(static_cast<size_t>(pixels * channels));
  for (float& x : logits) {
    x = std::round(normal(random) * 4) / 4;  // with ties
    if (random() % 31 == 0) x = std::numeric_limits<float>::quiet_NaN();
    if (random() % 29 == 0) x = -HUGE_VALF;
  }
  const int64_t to_channel = channels_last ? 1 : pixels, to_pixel = channels_last ? channels : 1;
  const Logits layout{logits.data(), LogitType::kFloat32, channels, 0, to_channel, to_pixel};
  const int classes = classes_of(layout);
  std::vector<int64_t> pred, target;
  for (int64_t i = 0; i < pixels; ++i) {
    int64_t best = 0;
    for (int64_t c = 1; c < channels; ++c) {
      const float x = logits[c * to_channel + i * to_pixel], y = logits[best * to_channel + i * to_pixel];
      if (x > y || (std::isnan(x) && !std::isnan(y))) best = c;
    }
    pred.push_back(channels > 1 ? best : logits[i * to_pixel] > 0.25f);
    target.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(classes)));
  }
  std::vector<int64_t> counts(static_cast<size_t>(classes) * kCounts);
  const Labels truth{target.data(), LabelType::kInt64, 0};
  const int32_t key = threshold_key(0.25, LogitType::kFloat32);
  count_logits(layout, truth, 0, 0, pixels / 2, key, counts.data());
  count_logits(layout, truth, 0, pixels / 2, pixels, key, counts.data());
  expect(counts == plain(pred, target, classes), "logits", pixels, channels, channels_last);
}

void the_first_wrong_label_is_found() {
  const std::vector<int32_t> a{0, 1, -5, 7};
  expect(find_out_of_range({a.data(), LabelType::kInt32, 0}, 0, 4, 2) == 2, "find");
  expect(find_out_of_range({a.data(), LabelType::kInt32, 0}, 0, 2, 2) == -1, "nothing to find");
  expect(label_at({a.data(), LabelType::kInt32, 1}, 1, 1) == -5, "label_at");
}

}  // namespace

int main() {
  std::mt19937 random(0);
  for (const int64_t pixels : {1, 2, 31, 32, 33, 95, 1000, 8191, 8192, 8193, 25000}) {
    for (const int classes : {1, 2, 3, 32, 33, 200, 255, 256, 1000}) {
      for (const int64_t beyond : {0, 1}) {
        const bool bytes = classes + beyond <= 256;
        if (bytes) labels_agree<uint8_t, uint8_t>(random, pixels, classes, beyond);
        if (bytes) labels_agree<uint8_t, int32_t>(random, pixels, classes, beyond);
        if (bytes) labels_agree<int64_t, uint8_t>(random, pixels, classes, beyond);
        labels_agree<int32_t, int64_t>(random, pixels, classes, beyond);
      }
    }
    for (const int channels : {1, 2, 5, 40, 255, 300}) {
      logits_agree(random, pixels, channels, false);
      logits_agree(random, pixels, channels, true);
    }
  }
  bools_count_what_is_not_zero();
  for (const uint8_t value : {0, 1, 2}) {
    for (const int classes : {3, 40}) uniform_maps(classes, value, LabelType::kUInt8);
    if (value < 2) uniform_maps(2, value, LabelType::kUInt8);
    uniform_maps(2, value, LabelType::kBool);
  }
  samples_lie_apart();
  keys_order_as_values_do(LogitType::kFloat16);
  keys_order_as_values_do(LogitType::kBFloat16);
  the_first_wrong_label_is_found();
  std::printf("%d failures\n", failures);
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
