"""What proofs of kernels share: the device, memory that starts as NaN, tolerances, and the comparison with float64."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from fastliver.kernels import geometry, instance_norm

Outputs = Tensor | tuple[Tensor, ...]

TOLERANCE = {torch.float32: 2e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}
"""Largest |got - expected| as a share of |expected| + rms(expected). Kernels compute in fp32 and round once.

float32   Rounding is 6e-8. Sums over a plane of a thousand elements and gradients that cancel make a hundred of it;
          what is wrong in an algorithm (a mean too much, a border counted twice) makes 1e-2 and more.
float16   Rounding is 2^-11 = 5e-4; a residual's gradient may be rounded on its way too: twice that.
bfloat16  Rounding is 2^-8 = 4e-3, but Triton's interpreter cuts off instead: 2^-7 = 8e-3.
"""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine take a hundred times as long as one alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _nan_in_fresh_memory() -> Iterator[None]:
    """torch.empty and its kin give NaN, so that an element which no kernel writes shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    for fresh in (torch.empty(2), torch.empty_like(torch.zeros(2)), torch.zeros(1).new_empty(2)):
        assert fresh.isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where kernels run: the GPU, or the CPU in Triton's interpreter."""
    monkeypatch.setenv("FASTLIVER_KERNELS", "triton")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def noise(device: torch.device) -> Callable[..., Tensor]:
    """Makes normal random numbers on the device, in a memory format."""

    def make(*shape: int, dtype: torch.dtype = torch.float32, channels_last: bool = False, seed: int = 0) -> Tensor:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        x = x.to(device=device, dtype=dtype)
        return x.contiguous(memory_format=torch.channels_last) if channels_last else x

    return make


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small planes take the road of large ones: several tiles, several blocks of channels and several merges."""
    monkeypatch.setattr(instance_norm, "ONE_PASS", 0)
    monkeypatch.setattr(geometry, "TILE", 16)
    monkeypatch.setattr(geometry, "PLANE_TILE", 16)
    monkeypatch.setattr(geometry, "WIDE_CHANNELS", 2)
    monkeypatch.setattr(geometry, "MERGED_TILES", 2)
    tiles: list[int] = []
    grid = geometry.Tiling.grid

    def record(self: geometry.Tiling, pixels: int, channels: int, batch: int) -> tuple[int, int, int]:
        tiles.append(grid(self, pixels, channels, batch)[0])
        return grid(self, pixels, channels, batch)

    monkeypatch.setattr(geometry.Tiling, "grid", record)
    yield
    assert max(tiles) > 1


@pytest.fixture
def agree() -> Callable[..., None]:
    """Asserts that a tensor is what float64 says, within its dtype's tolerance (or another)."""

    def check(got: Tensor, expected: Tensor, name: str = "value", tolerance: float | None = None) -> None:
        tolerance = tolerance or TOLERANCE[got.dtype]
        assert got.shape == expected.shape, f"{name}: {tuple(got.shape)} instead of {tuple(expected.shape)}"
        assert got.isfinite().all(), f"{name}: {int((~got.isfinite()).sum())} elements of {got.numel()} aren't finite"
        expected = expected.double()
        allowed = tolerance * (expected.abs() + expected.square().mean().sqrt())
        error = (got.double() - expected).abs()
        worst = (error / allowed.clamp_min(1e-300)).max().item()
        assert (error <= allowed).all(), f"{name}: {worst:.3g} times the error allowed ({tolerance:g})"

    return check


@pytest.fixture
def compare(agree: Callable[..., None]) -> Callable[..., tuple[Sequence[Tensor], Sequence[Tensor]]]:
    """Runs an operator and its reference in float64; asserts that values and gradients agree; gives the operator's."""

    def run(
        operator: Callable[..., Outputs],
        reference: Callable[..., Outputs],
        *inputs: Tensor,
        incoming: Sequence[Tensor | None] | None = None,
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """`incoming` are the outputs' gradients (None: not used); without it they are random."""
        leaves = [x.detach().requires_grad_() for x in inputs]
        # Contiguous: PyTorch's instance norm on a CPU has wrong gradients where they come in channels_last.
        exact = [x.detach().double().contiguous().requires_grad_() for x in inputs]
        got, expected = operator(*leaves), reference(*exact)
        got = got if isinstance(got, tuple) else (got,)
        expected = expected if isinstance(expected, tuple) else (expected,)
        assert len(got) == len(expected)
        for number, (y, e) in enumerate(zip(got, expected, strict=True)):
            agree(y.detach(), e.detach(), f"output {number}")
        if incoming is None:
            generator = torch.Generator().manual_seed(99)
            incoming = [torch.randn(y.shape, generator=generator).to(y.device, y.dtype) for y in got]
        used = [(y, e, g) for y, e, g in zip(got, expected, incoming, strict=True) if g is not None]
        ys, es, gs = zip(*used, strict=True)
        gradients = torch.autograd.grad(ys, leaves, gs)
        exact_gradients = torch.autograd.grad(es, exact, [g.double().contiguous() for g in gs])
        for number, (g, e) in enumerate(zip(gradients, exact_gradients, strict=True)):
            assert g.dtype == inputs[number].dtype
            agree(g, e, f"gradient {number}")
        return got, gradients

    return run
