"""EssNet (Huo et al. 2018): a CycleGAN with a segmentor on the generated MR."""

import torch.nn as nn

from fastliver.models.discriminator import PatchDiscriminator
from fastliver.models.generator import ResNetGenerator


class EssNet(nn.Module):
    """G1 (CT -> MR), G2 (MR -> CT), D1 (is it MR?), D2 (is it CT?) and, unless `segmentor` is off, S (MR -> liver).

    The paper's sizes give 28,256,644 parameters without S and 39,625,414 with it.

    Args:
        channels: width of the first layer of every network.
        blocks: residual blocks in G1, G2 and S.
        segmentor: False leaves S out, which makes this a plain CycleGAN (the paper's ablation).
        segmentor_tanh: end S in tanh as the public EssNet code does, which bounds its logits.
    """

    def __init__(
        self, channels: int = 64, blocks: int = 9, segmentor: bool = True, segmentor_tanh: bool = False
    ) -> None:
        super().__init__()
        self.g1 = ResNetGenerator(1, channels, blocks)
        self.g2 = ResNetGenerator(1, channels, blocks)
        self.d1 = PatchDiscriminator(channels)
        self.d2 = PatchDiscriminator(channels)
        self.s = ResNetGenerator(2, channels, blocks, tanh=segmentor_tanh) if segmentor else None
