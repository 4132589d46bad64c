// torch.ops.fastliver's Winograd convolutions: schemas, and what they demand of their arguments.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>

#include "winograd.h"

namespace fastliver {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void demand(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);  // ValueError in Python
}

Images images_of(const Tensor& x) {
  const bool bf16 = x.scalar_type() == ScalarType::BFloat16;
  demand(x.dim() == 4 && x.numel() > 0, "expected images (N, C, H, W)");
  demand(bf16 || x.scalar_type() == ScalarType::Float, "expected images of Float or BFloat16");
  demand(x.size(1) % kChannelBlock == 0, "expected a multiple of 32 channels");
  demand(x.stride(1) == 1, "expected channels side by side, as in channels_last");
  demand(has_winograd(bf16), "this machine lacks the instructions: see has_winograd");
  return {x.const_data_ptr(), bf16, x.size(0), x.size(2), x.size(3), x.size(1), x.stride(0), x.stride(2), x.stride(3)};
}

Tensor new_channels_last(int64_t n, int64_t c, int64_t h, int64_t w, ScalarType type) {
  const int64_t sizes[] = {n, c, h, w};
  return torch::stable::empty(torch::headeronly::IntHeaderOnlyArrayRef(sizes, 4), type, std::nullopt, std::nullopt,
                              std::nullopt, torch::headeronly::MemoryFormat::ChannelsLast);
}

// The convolution of x (N, C, H, W) with weight (K, C, 3, 3), or with (C, K, 3, 3) turned.
Tensor conv(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, int64_t padding, bool rotated) {
  const Images images = images_of(x);
  demand(padding >= 0 && padding <= 2, "expected a padding of 0, 1 or 2");
  demand(images.h + 2 * padding > 2 && images.w + 2 * padding > 2, "expected padded images of at least 3x3");
  demand(weight.dim() == 4 && weight.scalar_type() == ScalarType::Float, "expected a weight (K, C, 3, 3) of Float");
  const int64_t outputs = weight.size(rotated ? 1 : 0), last = weight.size(1);
  demand(weight.size(rotated ? 0 : 1) == images.c && outputs > 0 && outputs % kChannelBlock == 0 &&
             weight.size(2) == 3 && weight.size(3) == 3,
         "expected a weight (K, C, 3, 3) of the images' C and of K in multiples of 32");
  demand(
      weight.stride(1) == 1 && weight.stride(3) == last && weight.stride(2) == 3 * last && weight.stride(0) == 9 * last,
      "expected a weight in channels_last");
  demand(!bias || (bias->scalar_type() == ScalarType::Float && bias->is_contiguous() && bias->numel() == outputs),
         "expected a dense bias (K) of Float");
  Tensor y =
      new_channels_last(images.n, outputs, images.h + 2 * padding - 2, images.w + 2 * padding - 2, x.scalar_type());
  winograd_conv(images, static_cast<const float*>(weight.const_data_ptr()),
                bias ? static_cast<const float*>(bias->const_data_ptr()) : nullptr, outputs, rotated, padding,
                y.mutable_data_ptr());
  return y;
}

// (K, C, 3, 3) of x (N, C, H, W) and the gradient (N, K, H', W') of its convolution.
Tensor weight_gradient(const Tensor& x, const Tensor& dy, int64_t padding) {
  const Images images = images_of(x), gradients = images_of(dy);
  demand(images.bf16 == gradients.bf16, "expected images and gradients of one dtype");
  demand(
      gradients.n == images.n && gradients.h == images.h + 2 * padding - 2 && gradients.w == images.w + 2 * padding - 2,
      "expected gradients as large as the convolution's result");
  Tensor dw = new_channels_last(gradients.c, images.c, 3, 3, ScalarType::Float);
  winograd_weight_gradient(images, gradients, padding, static_cast<float*>(dw.mutable_data_ptr()));
  return dw;
}

bool available(bool bf16) {
  return has_winograd(bf16);
}

}  // namespace
}  // namespace fastliver

STABLE_TORCH_LIBRARY_FRAGMENT(fastliver, m) {
  m.def("winograd_conv(Tensor x, Tensor weight, Tensor? bias, int padding, bool rotated) -> Tensor");
  m.def("winograd_weight_gradient(Tensor x, Tensor dy, int padding) -> Tensor");
  m.def("has_winograd(bool bf16) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(fastliver, CPU, m) {
  m.impl("winograd_conv", TORCH_BOX(&fastliver::conv));
  m.impl("winograd_weight_gradient", TORCH_BOX(&fastliver::weight_gradient));
}

STABLE_TORCH_LIBRARY_IMPL(fastliver, CompositeExplicitAutograd, m) {
  m.impl("has_winograd", TORCH_BOX(&fastliver::available));
}
