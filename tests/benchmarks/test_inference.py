"""The networks at work that race: all give the same images."""

import numpy as np
import pytest
import torch

from benchmarks import inference

CPU = torch.device("cpu")


@pytest.mark.parametrize("task", inference.TASKS)
def test_everybody_gives_stock_s_images(task):
    images = inference.slices(3, 32)
    works = {name: way(task, images, CPU) for name, way in inference.contestants().items()}
    assert {"fastliver", "stock slice by slice", "stock in batches"} <= set(works)
    assert inference.disagreement(works) == {}
    found = works["fastliver"]()
    assert found.shape == (3, 32, 32)
    assert np.ptp(found.astype(np.float32)) > 1e-3  # not all the same
    works["fastliver"] = lambda: found + np.float16(0.1)
    assert list(inference.disagreement(works)) == ["fastliver"]


def test_a_case_counts_slices():
    for case in inference.cases(CPU):
        assert (case.shape, case.amount, case.unit) == ("8x1x64x64", 8, "slices/s")
