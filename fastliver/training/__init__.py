"""Training: steps, loop, image pool, guards and checkpoints of EssNet and U-Net, and the stages of a run."""
