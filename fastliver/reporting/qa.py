"""The QA sheet of one patient's synthesis: CT, synthetic MR, and the two outlines that should agree."""

from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fastliver.reporting.picture import SKY, YELLOW, new_figure, png

ROWS = 6
SIDE = 1.9
"""Inches of an image."""


def qa_sheet(
    title: str,
    ct: NDArray[Any],
    synthetic: NDArray[Any],
    label: NDArray[Any] | None,
    found: NDArray[Any] | None,
    dice: NDArray[Any] | None,
    dropped: set[int],
) -> bytes:
    """A PNG with evenly spaced slices, from the head down.

    Args:
        title: of the sheet.
        ct: (D, H, W) in [-1, 1].
        synthetic: (D, H, W) in [-1, 1].
        label: (D, H, W), the CT's liver, or None.
        found: (D, H, W), the liver that S finds in the synthetic MR, or None.
        dice: (D,), agreement of the two, or None.
        dropped: slices that the quality filter drops.
    """
    rows = chosen_slices(label, len(ct))
    columns = ["CT", "synthetic MR"]
    columns += ["label carried along"] if label is not None else []
    columns += ["found by S"] if found is not None else []
    figure = new_figure(SIDE * len(columns) + 0.5, SIDE * len(rows) + 0.8)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    figure.suptitle(title, fontsize=9, parse_math=False)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for axes, index in zip(grid, reversed(rows), strict=True):
        images = [ct, *[synthetic] * (len(columns) - 1)]
        outlines = [(label, YELLOW)] * (label is not None) + [(found, SKY)] * (found is not None)
        # Both outlines on the CT, for a look at where liver ends; then each on the synthetic MR.
        drawn = [outlines, [], *([outline] for outline in outlines)]
        for ax, image, contours in zip(axes, images, drawn, strict=True):
            ax.imshow(image[index].astype(np.float32), cmap="gray", vmin=-1, vmax=1)
            for mask, colour in contours:
                if mask is not None and mask[index].any():
                    ax.contour(mask[index] > 0, levels=[0.5], colors=[colour], linewidths=0.9)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(False)
            ax.spines[:].set_visible(False)
        text = f"slice {index + 1}"
        text += f"\nDice {dice[index]:.2f}" if dice is not None else ""
        text += "\ndropped" if index in dropped else ""
        axes[0].set_ylabel(text, fontsize=8)
    for ax, name in zip(grid[0], columns, strict=True):
        ax.set_title(name, fontsize=9, pad=4)
    handles = []
    if label is not None:
        handles.append(Line2D([], [], color=YELLOW, label="liver label of the CT"))
    if found is not None:
        handles.append(Line2D([], [], color=SKY, label="liver that S finds in the synthetic MR"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return png(figure)


def chosen_slices(label: NDArray[Any] | None, count: int) -> list[int]:
    """Up to ROWS slices, evenly over those with liver where a label says, over all otherwise; not by how they look."""
    candidates = np.arange(count)
    if label is not None and label.any():
        candidates = np.flatnonzero(label.any(axis=(1, 2)))
    kept = min(ROWS, len(candidates))
    return [int(candidates[int(place)]) for place in (np.arange(kept) + 0.5) * len(candidates) / kept]
