"""A trained run as one object: CT volume -> synthetic MR, MR volume -> liver."""

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fastliver.errors import InputError
from fastliver.inference.networks import choose_device
from fastliver.inference.segmentation import BATCH, THRESHOLD, liver_probability
from fastliver.inference.squares import Squares
from fastliver.inference.synthesis import synthesize
from fastliver.inference.trained import Trained, load_generator, load_unets
from fastliver.models import EssNet
from fastliver.run_folder import RunFolder

Method = Literal["unet", "essnet"]
METHODS: tuple[Method, ...] = get_args(Method)
Spacing = tuple[float, float, float]
OnSlice = Callable[[int], None]
V = TypeVar("V", Tensor, NDArray[Any])

ISOTROPIC: Spacing = (1.0, 1.0, 1.0)


class Model:
    """The networks of a finished run; each is loaded when it is first needed.

    Volumes are (D, H, W), NumPy arrays or tensors; what comes back is of the same kind (a tensor on its device) and on
    the same grid. Slices are axial as a radiologist sees them: row 0 anterior, column 0 the patient's right. For the
    networks each slice is scaled into a square by the rules of the training, and brought back afterwards.

    Attributes:
        folder: the run.
        device: where the networks work.
        batch: slices that are computed at once; fewer need less memory.
    """

    def __init__(self, folder: RunFolder, device: torch.device, batch: int = BATCH) -> None:
        if isinstance(batch, bool) or not isinstance(batch, int | np.integer) or batch < 1:
            raise InputError(f"batch={batch}: must be a whole number from 1; leave it out for {BATCH} slices at once")
        self.folder, self.device, self.batch = folder, device, batch
        self._unets: dict[tuple[int | None, bool], list[Trained]] = {}

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.root.resolve().name

    @cached_property
    def generator(self) -> Trained:
        """EssNet, or the CycleGAN of a run without segmentor; raises InputError where neither is trained."""
        return load_generator(self.folder, self.device)

    @property
    def has_segmentor(self) -> bool:
        """Whether the run's EssNet has a segmentor S."""
        network = self.generator.network
        return isinstance(network, EssNet) and network.s is not None

    def saw_mirrored(self, method: Method) -> bool:
        """Whether the networks of a method learned from mirrored slices too: every augmentation mirrors."""
        import yaml

        _check_method(method)
        settings = yaml.safe_load(self.folder.config.read_text(encoding="utf-8")) or {}
        return settings.get(f"{method}_augment", "none") != "none"

    def liver_networks(
        self, method: Method = "unet", arrangement: int | None = None, ensemble: bool = False
    ) -> list[Trained]:
        """What segments: U-Nets (see `load_unets`), or EssNet's segmentor.

        Raises:
            ValueError: for another method.
            InputError: where it isn't trained; the message names the stage to run.
        """
        _check_method(method)
        if method == "essnet":
            if not self.has_segmentor:
                raise InputError(
                    f"{self.folder.root}: its {self.generator.job} has no segmentor (--no-segmentor); segment with the "
                    "U-Net, or train a run with the segmentor"
                )
            return [self.generator]
        if (arrangement, ensemble) not in self._unets:
            self._unets[arrangement, ensemble] = load_unets(self.folder, self.device, arrangement, ensemble)
        return self._unets[arrangement, ensemble]

    def synthesize(self, volume: V, spacing: Spacing = ISOTROPIC, on_slice: OnSlice = lambda done: None) -> V:
        """Synthetic MR of a CT volume.

        Args:
            volume: (D, H, W), Hounsfield units.
            spacing: (slice, row, column) in mm; only the ratio of row to column matters.
            on_slice: called with the number of slices done.

        Returns:
            (D, H, W) float32 in [-1, 1]: -1 is the signal of the background, 1 the brightest percentile of the MR
            that the run learned from.

        Raises:
            ValueError: for a volume that isn't three-dimensional and finite, or a spacing that isn't three positive
                numbers.
            InputError: when the run has no finished EssNet.
        """
        squares = self.ct_squares(_as_array(volume), spacing)
        return _like(volume, squares.restore(self.synthesize_squares(squares.images, on_slice)))

    def segment(self, volume: V, spacing: Spacing = ISOTROPIC, *, largest_component: bool = False, **options: Any) -> V:
        """The liver in an MR volume.

        Args:
            volume: (D, H, W), the scanner's own grey values.
            spacing: (slice, row, column) in mm; only the ratio of row to column matters.
            largest_component: keep the largest 6-connected part alone.
            options: of `probability`.

        Returns:
            (D, H, W) uint8, 1 where the probability of liver is above 0.5.

        Raises:
            ValueError: for a volume that isn't three-dimensional and finite, a spacing that isn't three positive
                numbers, or an unknown method.
            InputError: when the run lacks the network.
        """
        return _like(volume, as_mask(self.probability(_as_array(volume), spacing, **options), largest_component))

    def probability(
        self,
        volume: V,
        spacing: Spacing = ISOTROPIC,
        *,
        method: Method = "unet",
        arrangement: int | None = None,
        ensemble: bool = False,
        flips: bool = False,
        on_slice: OnSlice = lambda done: None,
    ) -> V:
        """Probability of liver in an MR volume.

        Args:
            volume: (D, H, W), the scanner's own grey values.
            spacing: (slice, row, column) in mm; only the ratio of row to column matters.
            method: "unet", or "essnet" for EssNet's segmentor alone, which needs no MR labels to learn from.
            arrangement: which U-Net, by the paper's number of synthetic images; None takes the most.
            ensemble: average the U-Nets of all seeds of the arrangement.
            flips: average with what comes out for the mirrored slices; refused where training showed none.
            on_slice: called with the number of slices done, each network's counted.

        Returns:
            (D, H, W) float32 in [0, 1].

        Raises:
            ValueError: for a volume that isn't three-dimensional and finite, a spacing that isn't three positive
                numbers, or an unknown method.
            InputError: when the run lacks the network.
        """
        if flips and not self.saw_mirrored(method):
            raise InputError(
                f"{self.folder.root}: test-time flips need networks that learned from mirrored slices "
                f"(--{method}-augment flip-shift); these look for the liver on one side, and the average would be "
                "worse: leave the flips out"
            )
        networks = self.liver_networks(method, arrangement, ensemble)
        rule, size = networks[0].rule("MR"), networks[0].image_size
        squares = Squares.of(_as_array(volume), _in_slice(spacing), rule, size)
        found = np.zeros(squares.images.shape, np.float32)
        for before, trained in enumerate(networks):
            counted = partial(_count_on, on_slice, before * len(found))
            found += self._probability(trained, squares.images, counted, flips)
        return _like(volume, np.clip(squares.restore(found / len(networks)), 0.0, 1.0))

    def ct_squares(self, volume: NDArray[np.float32], spacing: Spacing) -> Squares:
        """A CT volume (D, H, W) in HU as the generator sees it."""
        return Squares.of(volume, _in_slice(spacing), self.generator.rule("CT"), self.generator.image_size)

    def synthesize_squares(
        self, images: NDArray[np.float32], on_slice: OnSlice = lambda done: None
    ) -> NDArray[np.float16]:
        """Synthetic MR (D, size, size) in [-1, 1] of CT squares."""
        essnet = self.generator.network
        assert isinstance(essnet, EssNet)
        return synthesize(essnet.g1, images, on_slice, self.batch)

    def segmentor_squares(self, synthetic: NDArray[np.floating]) -> NDArray[np.float32]:
        """Probability of liver (D, size, size) that S finds in synthetic MR squares."""
        (segmentor,) = self.liver_networks("essnet")
        return self._probability(segmentor, synthetic, lambda done: None, flips=False)

    def _probability(
        self, trained: Trained, images: NDArray[np.floating], on_slice: OnSlice, flips: bool
    ) -> NDArray[np.float32]:
        network = trained.network
        if isinstance(network, EssNet):
            assert network.s is not None
            network = network.s
        return liver_probability(network, images, on_slice, self.batch, flips)


def load(run: str | Path, device: str | torch.device = "auto", batch: int = BATCH) -> Model:
    """Open a trained run.

    Args:
        run: its folder, `runs/<name>`. Weights are read from safetensors and checked against their digests; nothing in
            the folder is executed.
        device: "auto" takes a GPU if there is one; or "cpu", "cuda", "cuda:1", a torch.device.
        batch: slices that are computed at once.

    Raises:
        InputError: when there is no run, or no such device.
    """
    chosen = device if isinstance(device, torch.device) else choose_device(device)
    return Model(RunFolder.open(Path(run)), chosen, batch)


def as_mask(probability: NDArray[np.float32], largest: bool = False) -> NDArray[np.uint8]:
    """(D, H, W) uint8, 1 where the probability is above 0.5; of it the largest 6-connected part, if asked for."""
    mask = probability > THRESHOLD
    if largest:
        from fastliver.metrics.components import largest_component  # SciPy, only where it is needed

        mask = largest_component(mask)
    return mask.astype(np.uint8)


def _check_method(method: str) -> None:
    """Raise ValueError for a method that there isn't."""
    if method not in METHODS:
        raise ValueError(f"method: is {method!r}, expected {' or '.join(map(repr, METHODS))}")


def _in_slice(spacing: Spacing) -> tuple[float, float]:
    """Row and column of a spacing; raises ValueError for what isn't one."""
    found = np.asarray(spacing)
    if found.shape != (3,) or found.dtype.kind not in "iuf" or not (np.isfinite(found) & (found > 0)).all():
        raise ValueError(f"spacing: is {spacing!r}, expected three positive numbers in mm: slice, row, column")
    return float(found[1]), float(found[2])


def _count_on(on_slice: OnSlice, before: int, done: int) -> None:
    """Count one network's slices behind those of the networks before it."""
    on_slice(before + done)


def _as_array(volume: ArrayLike | Tensor) -> NDArray[np.float32]:
    """A volume as float32 on the CPU; raises ValueError for what isn't one."""
    array = np.asarray(volume.detach().cpu() if isinstance(volume, Tensor) else volume, np.float32)
    if array.ndim != 3 or not array.size:
        raise ValueError(f"volume: has shape {array.shape}, expected (D, H, W)")
    if not np.isfinite(array).all():
        raise ValueError("volume: holds values that are not finite")
    return array


def _like(volume: Tensor | ArrayLike, result: NDArray[Any]) -> Any:
    """The result as a tensor on the volume's device where the volume was a tensor."""
    return torch.from_numpy(result).to(volume.device) if isinstance(volume, Tensor) else result
