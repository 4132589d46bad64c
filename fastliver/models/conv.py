"""The 3x3 convolution that most of the networks' work lies in."""

from torch import Tensor, nn

from fastliver.kernels import conv3x3


class Conv3x3(nn.Conv2d):
    """`nn.Conv2d` of 3x3 filters at stride 1, with the same parameters, by `conv3x3`.

    Args:
        in_channels: C of its input.
        out_channels: C of its output.
        padding: rows and columns of zeros on each side.
    """

    def __init__(self, in_channels: int, out_channels: int, padding: int = 0) -> None:
        super().__init__(in_channels, out_channels, 3, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H + 2 padding - 2, W + 2 padding - 2)."""
        return conv3x3(x, self.weight, self.bias, int(self.padding[0]))
