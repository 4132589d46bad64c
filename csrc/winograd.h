// 3x3 convolutions of stride 1 on a CPU with 1/2.25 or 1/4 of the multiplications: Winograd's F(2x2, 3x3) and, for fp32
// and results of 16x16 pixels or more, F(4x4, 3x3) (Lavin & Gray 2016).
//
// 2x2 pixels of a result read a tile d of 4x4. With g a 3x3 filter, and o the product element by element,
//
//     y = At (U o V) A,   U = G g Gt,   V = Bt d B
//
// takes 16 multiplications where the sum over the filter takes 36 (4x4 pixels, from a tile of 6x6, take 36 for 144);
// over channels, U o V is one matrix product for each element. Backward, with E = A dy At, the filter's gradient is Gt
// (sum over tiles of E o V) G, and the input's gradient is a convolution of dy with the rotated filter.
#pragma once

#include <cstdint>

namespace fastliver {

constexpr int64_t kChannelBlock = 32;
// Channels are worked on by this many at a time: both numbers of channels are
// multiples of it.

// A batch of images (N, H, W, C) whose channels lie side by side, in fp32 or
// bf16.
struct Images {
  const void* data;
  bool bf16;
  int64_t n, h, w, c;
  int64_t stride_n, stride_h, stride_w;
};

// Whether this machine has the instructions: AVX-512, for bf16 its dot product
// too.
bool has_winograd(bool bf16);

// y (N, H + 2 pad - 2, W + 2 pad - 2, K) dense, in the dtype of x, of x padded
// by zeros: pad is 0, 1 or 2. weight is (K, 3, 3, C) dense, or, with `rotated`,
// (C, 3, 3, K) turned by 180 degrees. bias (K) may be null.
void winograd_conv(const Images& x, const float* weight, const float* bias, int64_t outputs, bool rotated, int64_t pad,
                   void* y);

// dw (K, 3, 3, C) dense, of x padded by zeros and dy (N, H + 2 pad - 2, W + 2
// pad - 2, K), of one dtype.
void winograd_weight_gradient(const Images& x, const Images& dy, int64_t pad, float* dw);

}  // namespace fastliver
