"""Lowering one loss: backward pass, loss scaling and Adam, without waiting for the device."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.optim import Adam, Optimizer

from fastliver.training.precision import Precision

SCALING_PATIENCE = 40
"""Steps in a row that loss scaling may leave out: halved as often, 65,536 is far below 1 and no scale helps."""


class _AdamInMemoryOrder(Adam):
    """Adam that shows its kernel a channels_last weight, its gradient and moments as the dense (K, H, W, C) they are.

    On a CPU the fused kernel copies what isn't contiguous there and back, which takes longer than Adam itself.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        is_complex = super()._init_group(group, *lists)
        weights, gradients, moments, squares, *_ = lists
        for i, weight in enumerate(weights):
            if weight.dim() == 4 and not weight.is_contiguous():
                for tensors in (weights, gradients, moments, squares):
                    tensors[i] = tensors[i].permute(0, 2, 3, 1)
        return is_complex


class Update:
    """One optimizer's part of a step.

    On a GPU Adam is fused and capturable and the learning rate a tensor there, so that a CUDA graph can hold all of it.

    Args:
        networks: whose weights it changes.
        lr: learning rate.
        betas: Adam's.
        precision: decides device and loss scaling.
    """

    def __init__(
        self, networks: Iterable[nn.Module], lr: float, betas: tuple[float, float], precision: Precision
    ) -> None:
        self.base_lr = lr
        self.weights = [weight for network in networks for weight in network.parameters()]
        on_gpu = precision.device.type == "cuda"
        self._rate = torch.tensor(lr, device=precision.device) if on_gpu else None
        self._factor = 1.0
        self.optimizer = (Adam if on_gpu else _AdamInMemoryOrder)(
            self.weights, lr=lr if self._rate is None else self._rate, betas=betas, fused=True, capturable=on_gpu
        )
        self.optimizer.register_load_state_dict_pre_hook(self._adapt)
        self.scaler = precision.scaler()

    @property
    def patience(self) -> int:
        """Steps in a row whose gradients may be no numbers."""
        return 1 if self.scaler is None else SCALING_PATIENCE

    def set_rate(self, factor: float) -> None:
        """Learn at `factor` times the base rate from now on."""
        rate: float | Tensor = self.base_lr * factor
        if self._rate is not None:
            if factor != self._factor:
                self._rate.fill_(rate)
            rate = self._rate
        # Loading a state puts a copy in its place.
        self.optimizer.param_groups[0]["lr"] = rate
        self._factor = factor

    def __call__(self, loss: Tensor) -> Tensor:
        """Change the weights by one step down the loss's gradient; gives 1.0 if that is no number, else 0.0.

        With loss scaling such a step changes nothing.
        """
        if self.scaler is None:
            loss.backward()
        else:
            self.scaler.scale(loss).backward()
        fault = not_finite([weight.grad for weight in self.weights if weight.grad is not None])
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        # Now, not before the next backward: nobody reads them, and the other networks' steps need the memory.
        self.optimizer.zero_grad(set_to_none=True)
        return fault

    def state(self) -> dict[str, Any]:
        """What must be saved besides the optimizer: the loss scale. Waits for the device."""
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """The opposite of `state`; a run that goes on in another precision starts with a new scale, or none."""
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)

    def _adapt(self, optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
        """A saved state with this device's settings and this network's memory format in place of those it was saved in.

        Adam's fused kernel walks weights and moments in the order of memory, and a run may go on on another device.
        """
        own = optimizer.param_groups[0]
        kept = {name: own[name] for name in ("lr", "fused", "capturable", "foreach")}
        weights = dict(zip(saved["param_groups"][0]["params"], self.weights, strict=True))
        state = {
            number: {
                name: value if name == "step" else torch.empty_like(weights[number], dtype=value.dtype).copy_(value)
                for name, value in moments.items()
            }
            for number, moments in saved["state"].items()
        }
        return {**saved, "state": state, "param_groups": [{**group, **kept} for group in saved["param_groups"]]}


def not_finite(gradients: list[Tensor]) -> Tensor:
    """1.0 if some element of the gradients is infinite or NaN, else 0.0, as a scalar on their device."""
    return (~torch.nn.utils.get_total_norm(gradients).isfinite()).float()
