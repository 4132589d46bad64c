"""Overlap (Dice, IoU) and ROC of liver masks."""

from fastliver.metrics.overlap import OverlapCounts, dice, iou, overlap_counts
from fastliver.metrics.roc import RocCurve, roc_curve

__all__ = ["OverlapCounts", "RocCurve", "dice", "iou", "overlap_counts", "roc_curve"]
