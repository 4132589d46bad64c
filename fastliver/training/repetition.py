"""Noticing a generator that gives the same image whatever it is given.

A CycleGAN can end there: one plausible MR image for every CT, with the CT hidden in it as a faint pattern that the
other generator reads, so that the cycle losses stay low (Chu et al. 2017). Nothing in the losses shows it, and such
images teach a segmentation network nothing.
"""

import torch
from torch import Tensor

SHARE = 0.1
"""Of the variety of what a generator is given, below which what it gives counts as the same. On the phantom and on real
CT and MR a generator that works stayed above 0.15 in every step of its training; one that had collapsed was at 0.02."""


def variety(images: Tensor, others: Tensor) -> Tensor:
    """How unlike two batches of images are: the variance of their difference over the sum of their variances.

    0 for equal ones, 1 for ones that have nothing to do with each other; NaN where both are constant.
    """
    return (images - others).var() / (images.var() + others.var())


class Repetition:
    """Compares what a generator is given and gives with the step before. Device operations alone.

    Args:
        shape: (N, 1, H, W) of both.
        device: where they lie.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.given, self.output = (torch.zeros(shape, device=device) for _ in range(2))

    def found(self, given: Tensor, output: Tensor) -> Tensor:
        """1.0 if the output is that of the step before though what was given isn't, else 0.0; then keeps both."""
        given, output = given.detach().float(), output.detach().float()
        same = variety(output, self.output) < SHARE * variety(given, self.given)
        self.given.copy_(given)
        self.output.copy_(output)
        return same.float()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: the images of the last step."""
        return {"given": self.given, "output": self.output}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The opposite of `state`; the images keep their place in memory."""
        self.given.copy_(state["given"])
        self.output.copy_(state["output"])
