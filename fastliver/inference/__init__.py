"""Trained networks at work: CT slices -> synthetic MR, MR slices -> liver probability."""

from fastliver.inference.model import Model, load
from fastliver.inference.networks import load_essnet, load_unet
from fastliver.inference.segmentation import liver_probability
from fastliver.inference.synthesis import synthesize_store

__all__ = ["Model", "liver_probability", "load", "load_essnet", "load_unet", "synthesize_store"]
