"""`conv3x3` by Winograd's products against float64 convolutions, and where it leaves the work to F.conv2d."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastliver.compiled import MISSING
from fastliver.kernels import conv3x3, winograd
from fastliver.models import ResNetGenerator, UNet

LAST = torch.channels_last
FORMATS = [torch.float32, torch.bfloat16]
fast = pytest.mark.skipif(list(winograd.DTYPES) != FORMATS, reason=f"no Winograd loops: {MISSING or winograd.DTYPES}")
formats = pytest.mark.parametrize("dtype", FORMATS, ids=["fp32", "bf16"])


@pytest.fixture(autouse=True)
def _by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user has it, whatever the environment of the tests says."""
    monkeypatch.delenv("FASTLIVER_KERNELS", raising=False)


class Operators(TorchDispatchMode):
    """The names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func._schema.name)
        return func(*args, **(kwargs or {}))

    @property
    def winograd(self) -> bool:
        return "fastliver::winograd_conv" in self.seen


def _whole(shape: tuple[int, ...], bound: int, seed: int, step: int = 1) -> Tensor:
    """Whole numbers, multiples of `step`, whose sums and quarters every format here holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    return step * torch.randint(-bound, bound + 1, shape, generator=generator).double()


def _gradients(y: Tensor, leaves: list[Tensor], dy: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(y, leaves, dy.to(y.dtype)))


SMALL = [
    # (N, C, H, W), K, padding
    ((1, 32, 9, 9), 32, 0),
    ((2, 32, 7, 9), 64, 1),
    ((3, 64, 5, 4), 32, 2),
    ((1, 96, 3, 3), 32, 0),
    ((2, 32, 1, 2), 32, 1),
    ((1, 32, 3, 70), 32, 0),
    # More tiles than a chunk has.
    ((3, 1024, 15, 14), 32, 1),
]
"""Results of fewer than 256 pixels: tiles of 2x2 in both formats."""

LARGE = [
    ((1, 32, 18, 18), 32, 0),
    ((2, 64, 21, 17), 32, 1),
    ((1, 96, 16, 16), 64, 2),
    ((1, 32, 3, 130), 32, 0),
    ((1, 1024, 22, 24), 32, 1),
]
"""From 256 pixels on fp32 takes tiles of 4x4, for the result or for the gradient of x."""


def _run_both(
    shape: tuple[int, ...], outputs: int, padding: int, dtype: torch.dtype, threads: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Result and gradients of x, weight and bias, of whole numbers: conv3x3's and the exact ones."""
    x = _whole(shape, 2, 1).requires_grad_()
    weight = _whole((outputs, shape[1], 3, 3), 1, 2, step=4).requires_grad_()
    bias = _whole((outputs,), 9, 3).requires_grad_()
    expected = F.conv2d(x, weight, bias, padding=padding)
    dy = _whole(tuple(expected.shape), 1, 4)
    exact = [expected, *_gradients(expected, [x, weight, bias], dy)]
    leaves = [x.detach().to(dtype).contiguous(memory_format=LAST).requires_grad_()]
    leaves += [parameter.detach().float().requires_grad_() for parameter in (weight, bias)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with Operators() as operators:
            y = conv3x3(*leaves, padding)
        got = [y, *_gradients(y, leaves, dy)]
    finally:
        torch.set_num_threads(before)
    assert operators.winograd
    assert y.is_contiguous(memory_format=LAST)
    assert [value.dtype for value in got] == [dtype, dtype, torch.float32, torch.float32]
    return got, exact


@fast
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("shape", "outputs", "padding", "dtype"),
    [(*case, torch.float32) for case in SMALL] + [(*case, torch.bfloat16) for case in SMALL + LARGE],
)
def test_tiles_of_2x2_give_whole_numbers_exactly(shape, outputs, padding, dtype, threads):
    """Their transforms add, subtract and halve: with small whole numbers nothing is rounded but bf16 results, once."""
    for got, exact in zip(*_run_both(shape, outputs, padding, dtype, threads), strict=True):
        assert torch.equal(got, exact.to(got.dtype))


@fast
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("shape", "outputs", "padding"), LARGE)
def test_tiles_of_4x4_are_as_exact_as_other_fp32_kernels(shape, outputs, padding, threads, agree):
    """Their transforms multiply by what isn't whole, and sums cancel."""
    results = zip(*_run_both(shape, outputs, padding, torch.float32, threads), strict=True)
    for number, (got, exact) in enumerate(results):
        agree(got, exact, f"value {number}")


B = torch.tensor([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]).double()
G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]).double()
A = torch.tensor([[1, 1, 1, 0], [0, 1, -1, -1]]).double()


def _sizes(x: Tensor, weight: Tensor) -> Tensor:
    """What the products of each output add up to in size: the sums with every term taken positive."""
    tiles = x.abs().unfold(2, 4, 2).unfold(3, 4, 2)
    v = torch.einsum("pi,ncabij,qj->ncabpq", B.abs(), tiles, B.abs())
    u = torch.einsum("pi,kcij,qj->kcpq", G.abs(), weight.abs(), G.abs())
    m = torch.einsum("ncabpq,kcpq->nkabpq", v, u)
    y = torch.einsum("ip,nkabpq,jq->nkaibj", A.abs(), m, A.abs())
    return y.flatten(4, 5).flatten(2, 3)


@fast
@formats
def test_errors_of_2x2_tiles_stay_within_what_rounding_allows(dtype):
    """Each number may be rounded as it is read, transformed and added: bf16 does the first two, sums are fp32."""
    torch.manual_seed(0)
    x = torch.randn(2, 64, 14, 18).to(dtype).contiguous(memory_format=LAST)
    weight = torch.randn(32, 64, 3, 3) / 24
    expected = F.conv2d(x.double(), weight.double())
    error = (conv3x3(x, weight).double() - expected).abs()
    sums = (64 + 16) * 2.0**-24
    rounding = 2 * 2.0**-8 + 2.0**-16 if dtype == torch.bfloat16 else 0.0
    result = 2.0**-8 * expected.abs() if dtype == torch.bfloat16 else 0.0
    assert (error <= (sums + rounding) * _sizes(x.double(), weight.double()) + result).all()


def _rms(x: Tensor, expected: Tensor) -> float:
    x, expected = x.detach(), expected.detach()
    return float((x.double() - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@fast
@pytest.mark.parametrize(
    ("side", "dtype", "factor"),
    [(8, torch.float32, 3.0), (16, torch.float32, 6.0), (8, torch.bfloat16, 2.5), (16, torch.bfloat16, 2.5)],
)
@pytest.mark.parametrize(("padding", "channels"), [(0, 256), (1, 64)])
def test_errors_are_near_those_of_a_direct_convolution(side, padding, channels, dtype, factor):
    """fp32: a few roundings more, of 6e-8 each, by 4x4 tiles twice as many. bf16: rounds transformed numbers, where a
    direct convolution rounds the numbers themselves, and adds up their errors."""
    side += 2 - 2 * padding
    torch.manual_seed(0)
    x = torch.randn(2, channels, side, side).to(dtype).contiguous(memory_format=LAST).requires_grad_()
    weight = (torch.randn(channels, channels, 3, 3) / (3 * channels**0.5)).requires_grad_()
    exact = [leaf.detach().double().requires_grad_() for leaf in (x, weight)]
    expected = F.conv2d(*exact, padding=padding)
    dy = torch.randn(expected.shape).to(dtype)
    true = [expected, *_gradients(expected, exact, dy)]
    y = conv3x3(x, weight, padding=padding)
    got = [y, *_gradients(y, [x, weight], dy)]
    direct = F.conv2d(x, weight.to(dtype), padding=padding)
    stock = [direct, *_gradients(direct, [x, weight], dy)]
    for ours, theirs, right in zip(got, stock, true, strict=True):
        assert _rms(ours, right) <= factor * _rms(theirs, right)


@fast
@formats
@pytest.mark.parametrize("side", [9, 21])
def test_the_same_bits_whatever_the_threads_and_the_batch(side, dtype):
    torch.manual_seed(0)
    x = torch.randn(5, 64, side, 19).to(dtype).contiguous(memory_format=LAST)
    weight, dy = torch.randn(96, 64, 3, 3), torch.randn(5, 96, side, 19).to(dtype).contiguous(memory_format=LAST)

    def run(images: Tensor, incoming: Tensor) -> list[Tensor]:
        leaves = [images.clone().requires_grad_(), weight.clone().requires_grad_()]
        y = conv3x3(*leaves, padding=1)
        return [y.detach(), *_gradients(y, leaves, incoming)]

    before = torch.get_num_threads()
    alone = run(x, dy)
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            for got, expected in zip(run(x, dy), alone, strict=True):
                assert torch.equal(got, expected)
    finally:
        torch.set_num_threads(before)
    for number in range(5):
        y, dx, _ = run(x[number : number + 1], dy[number : number + 1])
        assert torch.equal(y, alone[0][number : number + 1])
        assert torch.equal(dx, alone[1][number : number + 1])


@fast
@formats
def test_images_and_gradients_are_read_as_they_lie(dtype):
    torch.manual_seed(0)
    padded = torch.randn(2, 96, 12, 14).to(dtype).contiguous(memory_format=LAST)
    inside = padded[:, 32:64, 1:-2, 2:-1]  # steps between channels, rows and images of its own
    assert not inside.is_contiguous(memory_format=LAST)
    weight = torch.randn(32, 32, 3, 3)
    results = []
    for images in (inside, inside.contiguous(memory_format=LAST)):
        for form in (LAST, torch.contiguous_format):
            leaf, own = images.detach().requires_grad_(), weight.to(memory_format=form).requires_grad_()
            with Operators() as operators:
                y = conv3x3(leaf, own)
            assert operators.winograd
            dy = torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(dtype)
            results += [[y, *_gradients(y, [leaf, own], dy.to(memory_format=form))]]
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))
    # A sum's gradient: one number for all pixels.
    leaf = inside.detach().requires_grad_()
    (spread,) = torch.autograd.grad(conv3x3(leaf, weight).sum(), leaf)
    (dense,) = _gradients(conv3x3(leaf, weight), [leaf], torch.ones(2, 32, 7, 9))
    assert torch.equal(spread, dense)


@fast
def test_weights_that_are_used_twice_add_their_gradients_and_may_change_between_steps():
    x = _whole((1, 32, 8, 8), 2, 1).float().contiguous(memory_format=LAST)
    weight = _whole((32, 32, 3, 3), 1, 2, step=4).float().requires_grad_()
    twice = conv3x3(x, weight, padding=1).sum() + conv3x3(2 * x, weight, padding=1).sum()
    (both,) = torch.autograd.grad(twice, weight)
    (once,) = torch.autograd.grad(conv3x3(x, weight, padding=1).sum(), weight)
    assert torch.equal(both, 3 * once)
    before = conv3x3(x, weight, padding=1)
    with torch.no_grad():
        weight.mul_(2)
    assert torch.equal(conv3x3(x, weight, padding=1), 2 * before)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        before.sum().backward()


@fast
def test_autocast_multiplies_bf16_and_gives_fp32_weights_their_gradients_in_fp32():
    torch.manual_seed(0)
    x = torch.randn(1, 32, 10, 10).contiguous(memory_format=LAST).requires_grad_()
    weight, bias = torch.randn(32, 32, 3, 3, requires_grad=True), torch.randn(32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), Operators() as operators:
        y = conv3x3(x, weight, bias)
    assert operators.winograd
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, conv3x3(x.bfloat16(), weight, bias))
    gradients = _gradients(y, [x, weight, bias], torch.ones_like(y))
    assert [gradient.dtype for gradient in gradients] == [torch.float32] * 3


def _last(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype).contiguous(memory_format=LAST)


OTHERS: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "float64": lambda: (_last(1, 32, 5, 5).double(), _last(32, 32, 3, 3).double()),
    "fp16": lambda: (_last(1, 32, 5, 5).half(), _last(32, 32, 3, 3).half()),
    "bf16 weights": lambda: (_last(1, 32, 5, 5).bfloat16(), _last(32, 32, 3, 3).bfloat16()),
    "contiguous": lambda: (torch.ones(1, 32, 5, 5), torch.ones(32, 32, 3, 3)),
    "few channels": lambda: (_last(1, 16, 5, 5), _last(32, 16, 3, 3)),
    "few outputs": lambda: (_last(1, 32, 5, 5), _last(2, 32, 3, 3)),
    "no images": lambda: (_last(0, 32, 5, 5), _last(32, 32, 3, 3)),
    "meta": lambda: (_last(1, 32, 5, 5).to("meta"), _last(32, 32, 3, 3).to("meta")),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_the_loops_do_not_take_is_left_to_pytorch(name):
    x, weight = OTHERS[name]()
    with Operators() as operators:
        y = conv3x3(x, weight, padding=1)
    assert not operators.winograd
    expected = F.conv2d(x, weight, padding=1)
    assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
    assert name == "meta" or torch.equal(y, expected)


@pytest.mark.parametrize("choice", ["torch", "triton"])
def test_kernels_chosen_by_name_are_not_winograds(choice, monkeypatch):
    monkeypatch.setenv("FASTLIVER_KERNELS", choice)
    with Operators() as operators:
        conv3x3(_last(1, 32, 5, 5), _last(32, 32, 3, 3))
    assert not operators.winograd


def test_without_the_extension_or_its_instructions_pytorch_convolves(monkeypatch):
    x, weight = torch.randn(1, 32, 6, 6).contiguous(memory_format=LAST), torch.randn(32, 32, 3, 3)
    monkeypatch.setattr(winograd, "DTYPES", ())
    with Operators() as operators:
        y = conv3x3(x, weight, padding=1)
    assert not operators.winograd
    assert torch.equal(y, F.conv2d(x, weight, padding=1))


def test_fake_tensors_and_compilers_see_a_convolution():
    with FakeTensorMode():
        x, weight = torch.empty(1, 32, 6, 6).to(memory_format=LAST), torch.empty(32, 32, 3, 3)
        with Operators() as operators:
            conv3x3(x, weight)
    assert operators.seen == ["aten::convolution"]
    graphs: list[str] = []

    def backend(graph, inputs):
        graphs.append(graph.code)
        return graph.forward

    torch.compile(lambda x, w: conv3x3(x, w), backend=backend, fullgraph=True)(_last(1, 32, 6, 6), _last(32, 32, 3, 3))
    assert len(graphs) == 1
    assert "conv2d" in graphs[0]
    assert "winograd" not in graphs[0]


def _penalty(convolve: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    leaves = [leaf.detach().requires_grad_() for leaf in (x, weight, bias)]
    first = torch.autograd.grad(convolve(*leaves).square().sum(), leaves, create_graph=True)
    return [*first, *torch.autograd.grad(sum(grad.square().sum() for grad in first), leaves)]


TRANSFORMS = {
    "second derivatives": _penalty,
    "grad": lambda f, *args: torch.func.grad(lambda *args: f(*args).square().sum(), argnums=(0, 1, 2))(*args),
    "vmap": lambda f, x, w, b: [torch.func.vmap(lambda image: f(image[None], w, b)[0])(x)],
    "jvp": lambda f, *args: torch.func.jvp(f, args, tuple(torch.ones_like(x) for x in args)),
    "trace": lambda f, *args: [torch.jit.trace(f, args, check_trace=False)(*args)],
}


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_derivatives_of_any_kind_and_traces_are_those_of_a_convolution(name, agree):
    torch.manual_seed(0)
    x = torch.randn(3, 32, 6, 7).contiguous(memory_format=LAST)
    weight, bias = torch.randn(32, 32, 3, 3) / 17, torch.randn(32)
    results = [TRANSFORMS[name](convolve, x, weight, bias) for convolve in (conv3x3, F.conv2d)]
    for got, expected in zip(*results, strict=True):
        agree(got.detach(), expected.detach())


@pytest.mark.parametrize("bias", [torch.ones(32).bfloat16(), torch.ones(64)[::2]], ids=["bf16", "strided"])
def test_a_bias_of_any_kind_under_autocast(bias):
    x, weight = torch.randn(1, 32, 6, 6).contiguous(memory_format=LAST), torch.randn(32, 32, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv3x3(x, weight, bias), F.conv2d(x, weight, bias))


@fast
@pytest.mark.parametrize("make", [lambda: ResNetGenerator(channels=8, blocks=2), lambda: UNet(32).eval()])
def test_networks_compute_the_same_by_winograd(make):
    """Against float64, where F.conv2d does all."""
    torch.manual_seed(0)
    network = make().to(memory_format=LAST)
    image = torch.rand(1, 1, 32, 48) * 2 - 1
    with Operators() as operators:
        y = network(image)
    gradients = _gradients(y, list(network.parameters()), torch.ones_like(y) / y.numel())
    assert operators.winograd
    exact = network.double()
    expected = exact(image.double())
    true = _gradients(expected, list(exact.parameters()), torch.ones_like(expected) / y.numel())
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-5)
    for gradient, right in zip(gradients, true, strict=True):
        scale = float(right.abs().max())
        # A bias before an instance norm has no gradient but rounding.
        torch.testing.assert_close(gradient.double(), right, rtol=1e-3, atol=1e-3 * scale + 1e-6)


@fast
def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="padding of 0, 1 or 2"):
        conv3x3(_last(1, 32, 5, 5), _last(32, 32, 3, 3), padding=3)
    with pytest.raises(ValueError, match="at least 3x3"):
        conv3x3(_last(1, 32, 2, 5), _last(32, 32, 3, 3))
    with pytest.raises(ValueError, match="weight"):
        conv3x3(_last(1, 32, 5, 5), _last(32, 64, 3, 3))
    with pytest.raises(RuntimeError, match="weight to be at least 1"):  # as F.conv2d
        conv3x3(_last(1, 32, 5, 5), torch.ones(0, 32, 3, 3))
    with pytest.raises(ValueError, match="K in multiples of 32"):
        torch.ops.fastliver.winograd_conv(_last(1, 32, 5, 5), torch.ones(0, 32, 3, 3), None, 1, False)
    with pytest.raises(ValueError, match="bias"):
        conv3x3(_last(1, 32, 5, 5), _last(32, 32, 3, 3), torch.zeros(3))
