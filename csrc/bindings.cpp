// The operators of torch.ops.fastliver: their schemas, what they demand of their arguments, and who computes them.
// Everything of torch's is its stable ABI, so one library serves every Python and every torch from 2.11 on.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <sstream>
#include <stdexcept>

#include "overlap.h"

#if FASTLIVER_CUDA
// In torch's CUDA library only: weak, so that this one loads beside a torch without it.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                   void** ret_stream);
#endif

namespace fastliver {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::invalid_argument(text.str());  // ValueError in Python
}

std::string shape_of(const Tensor& x) {
  std::ostringstream text;
  text << '(';
  for (int64_t i = 0; i < x.dim(); ++i) text << (i > 0 ? ", " : "") << x.size(i);
  text << ')';
  return text.str();
}

std::string device_of(const Tensor& x) {
  return x.is_cpu() ? "cpu" : "cuda:" + std::to_string(x.get_device_index());
}

void check_same_device(const char* name, const Tensor& x, const Tensor& target) {
  if (x.is_cpu() == target.is_cpu() && (x.is_cpu() || x.get_device_index() == target.get_device_index())) return;
  refuse("target is on ", device_of(target), ", ", name, " on ", device_of(x), ": they must be on one device");
}

void check_not_empty(const char* name, const Tensor& x) {
  if (x.numel() == 0) refuse(name, " has shape ", shape_of(x), ": it is empty");
}

LabelType label_type(const char* name, const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Bool:
      return LabelType::kBool;
    case ScalarType::Byte:
      return LabelType::kUInt8;
    case ScalarType::Int:
      return LabelType::kInt32;
    case ScalarType::Long:
      return LabelType::kInt64;
    default:
      refuse(name, " has dtype ", torch::headeronly::toString(x.scalar_type()),
             ": expected Bool, Byte, Int or Long (class ids)");
  }
}

LogitType logit_type(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return LogitType::kFloat32;
    case ScalarType::Half:
      return LogitType::kFloat16;
    case ScalarType::BFloat16:
      return LogitType::kBFloat16;
    default:
      refuse("logits has dtype ", torch::headeronly::toString(x.scalar_type()), ": expected Float, Half or BFloat16");
  }
}

// The stride from a pixel to the next if one number tells it for all dimensions from `first` on, else 0.
int64_t pixel_stride(const Tensor& x, int64_t first) {
  int64_t stride = 1, expected = -1;  // none yet: a single pixel has no next one
  for (int64_t i = x.dim() - 1; i >= first; --i) {
    if (x.size(i) == 1) continue;
    if (expected < 0) {
      stride = expected = x.stride(i);
    } else if (x.stride(i) != expected) {
      return 0;
    }
    expected *= x.size(i);
  }
  return stride;
}

// Samples may lie apart; the pixels of one may not, else they are copied together first.
Tensor with_dense_pixels(const Tensor& x) {
  return pixel_stride(x, 1) == 1 ? x : torch::stable::contiguous(x);
}

Tensor new_counts(const Tensor& like, int64_t classes) {
  const int64_t sizes[] = {like.size(0), classes, kCounts};
  return torch::stable::new_zeros(like, torch::headeronly::IntHeaderOnlyArrayRef(sizes, 3), ScalarType::Long);
}

Labels labels_of(const Tensor& x, LabelType type) {
  return {x.const_data_ptr(), type, x.stride(0)};
}

// Every pixel belongs to one class, so a sample whose counts don't add up holds one that belongs to none.
void check_in_range(const char* name, const Labels& labels, int column, const Tensor& counts, int64_t pixels) {
  const int64_t classes = counts.size(1);
  const int64_t* at = static_cast<const int64_t*>(counts.const_data_ptr());
  for (int64_t sample = 0; sample < counts.size(0); ++sample) {
    int64_t total = 0;
    for (int64_t c = 0; c < classes; ++c, at += kCounts) total += at[column];
    if (total == pixels) continue;
    const int64_t pixel = find_out_of_range(labels, sample, pixels, classes);
    refuse(name, " holds ", label_at(labels, sample, pixel), " at pixel ", pixel, " of sample ", sample,
           ": expected class ids 0 to ", classes - 1);
  }
}

void check_labels(const Tensor& pred, const Tensor& target, int64_t classes) {
  if (classes < 1 || classes > kMaxClasses) {
    refuse("num_classes is ", classes, ": expected 1 to ", kMaxClasses);
  }
  label_type("pred", pred);
  label_type("target", target);
  if (pred.dim() < 2) refuse("pred has shape ", shape_of(pred), ": expected (N, H, W) or (N, D, H, W)");
  check_not_empty("pred", pred);
  if (shape_of(pred) != shape_of(target)) {
    refuse("target has shape ", shape_of(target), ", pred ", shape_of(pred), ": they must be equal");
  }
  check_same_device("pred", pred, target);
}

void check_logits(const Tensor& logits, const Tensor& target) {
  logit_type(logits);
  label_type("target", target);
  if (logits.dim() < 3) refuse("logits has shape ", shape_of(logits), ": expected (N, C, H, W) or (N, C, D, H, W)");
  check_not_empty("logits", logits);
  bool fits = target.dim() == logits.dim() - 1 && target.size(0) == logits.size(0);
  for (int64_t i = 1; fits && i < target.dim(); ++i) fits = target.size(i) == logits.size(i + 1);
  if (!fits) {
    refuse("target has shape ", shape_of(target), ", logits ", shape_of(logits),
           ": it must be equal without the channels");
  }
  if (logits.size(1) > kMaxClasses) refuse("logits has ", logits.size(1), " channels: expected 1 to ", kMaxClasses);
  check_same_device("logits", logits, target);
}

Logits logits_of(const Tensor& x) {
  return {x.const_data_ptr(), logit_type(x), x.size(1), x.stride(0), x.stride(1), pixel_stride(x, 2)};
}

Tensor overlap_counts_cpu(const Tensor& pred, const Tensor& target, int64_t num_classes) {
  check_labels(pred, target, num_classes);
  const Tensor a = with_dense_pixels(pred), b = with_dense_pixels(target);
  const Labels predicted = labels_of(a, label_type("pred", a)), truth = labels_of(b, label_type("target", b));
  Tensor counts = new_counts(pred, num_classes);
  const int64_t samples = pred.size(0), pixels = pred.numel() / samples;
  count_labels_cpu(predicted, truth, samples, pixels, static_cast<int>(num_classes),
                   static_cast<int64_t*>(counts.mutable_data_ptr()));
  check_in_range("pred", predicted, 1, counts, pixels);
  check_in_range("target", truth, 2, counts, pixels);
  return counts;
}

Tensor overlap_counts_from_logits_cpu(const Tensor& logits, const Tensor& target, double threshold) {
  check_logits(logits, target);
  const Tensor a = pixel_stride(logits, 2) > 0 ? logits : torch::stable::contiguous(logits);
  const Tensor b = with_dense_pixels(target);
  const Logits predicted = logits_of(a);
  const Labels truth = labels_of(b, label_type("target", b));
  Tensor counts = new_counts(logits, classes_of(predicted));
  const int64_t samples = target.size(0), pixels = target.numel() / samples;
  count_logits_cpu(predicted, truth, samples, pixels, threshold_key(threshold, predicted.type),
                   static_cast<int64_t*>(counts.mutable_data_ptr()));
  check_in_range("target", truth, 2, counts, pixels);
  return counts;
}

#if FASTLIVER_CUDA
void* current_stream(int32_t device) {
  void* stream = nullptr;
  if (aoti_torch_get_current_cuda_stream == nullptr || aoti_torch_get_current_cuda_stream(device, &stream) != 0) {
    throw std::runtime_error("overlap counts on CUDA: this torch names no current CUDA stream");
  }
  return stream;
}

// No value is read back: what is out of range is in no class, so that the counts of its map fall short of the pixels by
// exactly as many. Whoever reads the counts checks that (metrics/overlap.py).
Tensor overlap_counts_cuda(const Tensor& pred, const Tensor& target, int64_t num_classes) {
  check_labels(pred, target, num_classes);
  const int32_t device = pred.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const Tensor a = with_dense_pixels(pred), b = with_dense_pixels(target);
  Tensor counts = new_counts(pred, num_classes);
  const int64_t samples = pred.size(0);
  count_labels_cuda(labels_of(a, label_type("pred", a)), labels_of(b, label_type("target", b)), samples,
                    pred.numel() / samples, static_cast<int>(num_classes),
                    static_cast<int64_t*>(counts.mutable_data_ptr()), device, current_stream(device));
  return counts;
}

Tensor overlap_counts_from_logits_cuda(const Tensor& logits, const Tensor& target, double threshold) {
  check_logits(logits, target);
  const int32_t device = logits.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const Tensor a = pixel_stride(logits, 2) > 0 ? logits : torch::stable::contiguous(logits);
  const Tensor b = with_dense_pixels(target);
  const Logits predicted = logits_of(a);
  Tensor counts = new_counts(logits, classes_of(predicted));
  const int64_t samples = target.size(0);
  count_logits_cuda(predicted, labels_of(b, label_type("target", b)), samples, target.numel() / samples,
                    threshold_key(threshold, predicted.type), static_cast<int64_t*>(counts.mutable_data_ptr()), device,
                    current_stream(device));
  return counts;
}
#endif

}  // namespace
}  // namespace fastliver

STABLE_TORCH_LIBRARY(fastliver, m) {
  m.def("overlap_counts(Tensor pred, Tensor target, int num_classes) -> Tensor");
  m.def("overlap_counts_from_logits(Tensor logits, Tensor target, float threshold) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fastliver, CPU, m) {
  m.impl("overlap_counts", TORCH_BOX(&fastliver::overlap_counts_cpu));
  m.impl("overlap_counts_from_logits", TORCH_BOX(&fastliver::overlap_counts_from_logits_cpu));
}

#if FASTLIVER_CUDA
STABLE_TORCH_LIBRARY_IMPL(fastliver, CUDA, m) {
  m.impl("overlap_counts", TORCH_BOX(&fastliver::overlap_counts_cuda));
  m.impl("overlap_counts_from_logits", TORCH_BOX(&fastliver::overlap_counts_from_logits_cuda));
}
#endif
