"""Both networks learn one batch by heart."""

import torch

from fastliver.data.batches import BatchStream


def test_essnet_drives_cycle_and_segmentation_losses_down(make_essnet):
    trainer = make_essnet(channels=8, augment="none", generator_lr=2e-3, discriminator_lr=1e-4, pool=0)
    first = trainer.step(0, 0).losses
    for _ in range(60):
        last = trainer.step(0, 0).losses
    for name in ("cycle_ct", "cycle_mr", "segmentation"):
        assert last[name] < 0.25 * first[name], name
    assert last["generators"] < 0.4 * first["generators"]


def test_the_unet_learns_one_batch(make_unet, ellipses):
    trainer = make_unet(channels=8, lr=3e-3)
    trainer.slices = BatchStream(ellipses(2, 3), 2, (0, 23))
    for _ in range(60):
        trainer.step(0, 0)
    images, labels = trainer.slices.get(0, 0)
    with torch.no_grad():
        liver = trainer.network.eval()(images).squeeze(1) > 0
    overlap = (liver & labels.bool()).sum()
    assert 2 * overlap / (liver.sum() + labels.sum()) > 0.95
