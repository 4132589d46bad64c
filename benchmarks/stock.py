"""Stock twins: EssNet's and the U-Net's steps written with nothing but torch.nn, as the public recipes have them.

The recipes are pytorch-CycleGAN-and-pix2pix's ResNet generator, PatchGAN and step, and the Keras U-Net by zhixuhao
carried over to torch.nn. The tests hold fastliver's losses and gradients against these, and benchmarks race against
them, so this file imports nothing of fastliver.
"""

import random
from itertools import pairwise

import torch
import torch.nn as nn
from torch import Tensor
from torch.optim import Adam


def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """Copy the source's parameters into the target in order of definition, as fastliver's networks define theirs.

    Raises:
        ValueError: when the two differ in number or shapes of parameters.
    """
    given, taken = dict(source.named_parameters()), dict(target.named_parameters())
    if len(given) != len(taken):
        raise ValueError(f"the source has {len(given)} parameters, the target {len(taken)}")
    with torch.no_grad():
        for (name, value), (own_name, own) in zip(given.items(), taken.items(), strict=True):
            if value.shape != own.shape:
                raise ValueError(f"{name} is {tuple(value.shape)}, but {own_name} is {tuple(own.shape)}")
            own.copy_(value)


def _normal(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class StockResidualBlock(nn.Module):
    """Two reflection-padded 3x3 convolutions with instance norm, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def stock_generator(out_channels: int = 1, channels: int = 64, blocks: int = 9, tanh: bool = True) -> nn.Sequential:
    """The ResNet generator; with two outputs and without tanh it is EssNet's segmentor."""
    layers: list[nn.Module] = [
        nn.ReflectionPad2d(3),
        nn.Conv2d(1, channels, 7),
        nn.InstanceNorm2d(channels),
        nn.ReLU(True),
    ]
    for width in (channels, 2 * channels):
        layers += [
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.InstanceNorm2d(2 * width),
            nn.ReLU(True),
        ]
    layers += [StockResidualBlock(4 * channels) for _ in range(blocks)]
    for width in (4 * channels, 2 * channels):
        layers += [
            nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1),
            nn.InstanceNorm2d(width // 2),
            nn.ReLU(True),
        ]
    layers += [nn.ReflectionPad2d(3), nn.Conv2d(channels, out_channels, 7)]
    if tanh:
        layers.append(nn.Tanh())
    return nn.Sequential(*layers).apply(_normal)


def stock_discriminator(channels: int = 64) -> nn.Sequential:
    """The 70x70 PatchGAN; gives logits."""
    layers: list[nn.Module] = [nn.Conv2d(1, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2, True)]
    for width, stride in ((channels, 2), (2 * channels, 2), (4 * channels, 1)):
        layers += [
            nn.Conv2d(width, 2 * width, 4, stride=stride, padding=1),
            nn.InstanceNorm2d(2 * width),
            nn.LeakyReLU(0.2, True),
        ]
    layers.append(nn.Conv2d(8 * channels, 1, 4, padding=1))
    return nn.Sequential(*layers).apply(_normal)


class StockImagePool:
    """The public recipe's pool of generated images; 0 for none."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.random = size, random.Random(seed)
        self.images: list[Tensor] = []

    def query(self, images: Tensor) -> Tensor:
        """Each image itself or, once the pool is full and half the time, one from the pool in exchange for it."""
        if self.size == 0:
            return images
        chosen: list[Tensor] = []
        for image in images.split(1):
            if len(self.images) < self.size:
                self.images.append(image)
                chosen.append(image)
            elif self.random.random() > 0.5:
                place = self.random.randrange(self.size)
                chosen.append(self.images[place].clone())
                self.images[place] = image
            else:
                chosen.append(image)
        return torch.cat(chosen)


class StockEssNet(nn.Module):
    """EssNet and its training step with the paper's recipe; a CycleGAN without its segmentor.

    Args:
        channels: width of the networks' first layers.
        blocks: residual blocks of a generator.
        segmentor: False leaves S out.
        segmentor_tanh: end S in tanh.
        adversarial: "bce" or "lsgan".
        weights: of the losses: GAN of MR, GAN of CT, cycle of CT, cycle of MR, segmentation.
        generator_lr: Adam's learning rate for G1, G2 and S.
        discriminator_lr: Adam's learning rate for D1 and D2.
        betas: Adam's.
        pool: size of the image pools, 0 for none.
        capturable: whether Adam can be part of a CUDA graph.
    """

    def __init__(
        self,
        channels: int = 64,
        blocks: int = 9,
        segmentor: bool = True,
        segmentor_tanh: bool = False,
        adversarial: str = "bce",
        weights: tuple[float, float, float, float, float] = (1.0, 1.0, 10.0, 10.0, 1.0),
        generator_lr: float = 1e-4,
        discriminator_lr: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        pool: int = 50,
        capturable: bool = False,
    ) -> None:
        super().__init__()
        self.g1 = stock_generator(1, channels, blocks)
        self.g2 = stock_generator(1, channels, blocks)
        self.d1 = stock_discriminator(channels)
        self.d2 = stock_discriminator(channels)
        self.s = stock_generator(2, channels, blocks, segmentor_tanh) if segmentor else None
        self.weights = weights
        self.gan: nn.Module = {"bce": nn.BCEWithLogitsLoss, "lsgan": nn.MSELoss}[adversarial]()
        self.l1, self.cross_entropy = nn.L1Loss(), nn.CrossEntropyLoss()
        generators = [*self.g1.parameters(), *self.g2.parameters()]
        generators += [*self.s.parameters()] if self.s is not None else []
        self.generator_adam = Adam(generators, lr=generator_lr, betas=betas, capturable=capturable)
        self.d1_adam = Adam(self.d1.parameters(), lr=discriminator_lr, betas=betas, capturable=capturable)
        self.d2_adam = Adam(self.d2.parameters(), lr=discriminator_lr, betas=betas, capturable=capturable)
        self.mr_pool, self.ct_pool = StockImagePool(pool, 1), StockImagePool(pool, 2)

    def _adversarial(self, logits: Tensor, real: bool) -> Tensor:
        return self.gan(logits, torch.ones_like(logits) if real else torch.zeros_like(logits))

    def step(self, ct: Tensor, labels: Tensor, mr: Tensor) -> dict[str, Tensor]:
        """Train G1, G2 and S, then D1, then D2 on one batch; gives the losses by name."""
        self.d1.requires_grad_(False)
        self.d2.requires_grad_(False)
        fake_mr, fake_ct = self.g1(ct), self.g2(mr)
        losses = {
            "gan_mr": self._adversarial(self.d1(fake_mr), True),
            "gan_ct": self._adversarial(self.d2(fake_ct), True),
            "cycle_ct": self.l1(self.g2(fake_mr), ct),
            "cycle_mr": self.l1(self.g1(fake_ct), mr),
        }
        gan_mr, gan_ct, cycle_ct, cycle_mr, segmentation = self.weights
        total = gan_mr * losses["gan_mr"] + gan_ct * losses["gan_ct"]
        total = total + cycle_ct * losses["cycle_ct"] + cycle_mr * losses["cycle_mr"]
        if self.s is not None:
            losses["segmentation"] = self.cross_entropy(self.s(fake_mr), labels.long())
            total = total + segmentation * losses["segmentation"]
        self.generator_adam.zero_grad()
        total.backward()
        self.generator_adam.step()
        self.d1.requires_grad_(True)
        self.d2.requires_grad_(True)
        losses["generators"] = total
        losses["d1"] = self._train_discriminator(self.d1, self.d1_adam, mr, self.mr_pool.query(fake_mr.detach()))
        losses["d2"] = self._train_discriminator(self.d2, self.d2_adam, ct, self.ct_pool.query(fake_ct.detach()))
        return {name: loss.detach() for name, loss in losses.items()}

    def _train_discriminator(self, network: nn.Module, adam: Adam, real: Tensor, fake: Tensor) -> Tensor:
        loss = (self._adversarial(network(real), True) + self._adversarial(network(fake), False)) * 0.5
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss


def _double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.ReLU(True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
        nn.ReLU(True),
    )


def _up_conv(in_channels: int) -> nn.Sequential:
    # Keras pads an even kernel's "same" convolution at the right and the bottom.
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(in_channels, in_channels // 2, 2),
        nn.ReLU(True),
    )


class StockUNet(nn.Module):
    """The Keras U-Net and its training step.

    Args:
        channels: width of the first level.
        head_relu: the Keras original's ReLU on the 2-channel layer.
        dropout: share of values dropped at the two deepest levels.
        lr: Adam's learning rate.
        capturable: whether Adam can be part of a CUDA graph.
    """

    def __init__(
        self,
        channels: int = 64,
        head_relu: bool = False,
        dropout: float = 0.5,
        lr: float = 1e-4,
        capturable: bool = False,
    ) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(5)]
        self.down = nn.ModuleList([_double_conv(1, channels), *(_double_conv(a, b) for a, b in pairwise(widths))])
        self.up = nn.ModuleList(
            nn.ModuleList([_up_conv(width), _double_conv(width, width // 2)]) for width in reversed(widths[1:])
        )
        self.head = nn.Sequential(
            nn.Conv2d(channels, 2, 3, padding=1), *([nn.ReLU(True)] if head_relu else []), nn.Conv2d(2, 1, 1)
        )
        self.pool, self.dropout = nn.MaxPool2d(2), nn.Dropout(dropout)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        self.bce = nn.BCEWithLogitsLoss()
        self.adam = Adam(self.parameters(), lr=lr, capturable=capturable)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, H, W) -> liver logits (N, 1, H, W)."""
        conv1 = self.down[0](image)
        conv2 = self.down[1](self.pool(conv1))
        conv3 = self.down[2](self.pool(conv2))
        drop4 = self.dropout(self.down[3](self.pool(conv3)))
        x = self.dropout(self.down[4](self.pool(drop4)))
        for parts, skip in zip(self.up, (drop4, conv3, conv2, conv1), strict=True):
            up_conv, double_conv = parts.children()
            x = double_conv(torch.cat((skip, up_conv(x)), dim=1))
        return self.head(x)

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Train on one batch, labels (N, H, W) of 0 and 1; gives the loss by name."""
        self.train()
        logits = self(images)
        loss = self.bce(logits, labels.unsqueeze(1).to(logits.dtype))
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return {"loss": loss.detach()}
