"""README, docs and plots against results made up by hand; and the committed pages against the committed results."""

import pytest
import torch

from benchmarks import pages, plot, tables
from benchmarks.results import Results, newest_results, surroundings

SHARED = surroundings(torch.device("cpu")) | {
    "device": "A Processor, 2 threads",
    "torch": "9.9",
    "date": "2026-01-02T03",
}


def _write(folder, suite, rows):
    with Results(folder / f"{suite}.csv", suite, SHARED) as results:
        for case, provider, mode, metric, unit, value, shape, dtype in rows:
            columns = {"case": case, "provider": provider, "mode": mode, "shape": shape, "dtype": dtype}
            results.add(metric, unit, (value / 2, value, value * 2), **columns)


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """Results of a CPU and of a GPU."""
    for device, factor in (("cpu", 1.0), ("some-gpu", 10.0)):
        folder = tmp_path / device
        steps = [
            ("essnet", "fastliver", "full", "speed vs stock fp32", "x", 1.5 * factor, "1x1x64x64", "fp32"),
            ("essnet", "fastliver", "full", "time", "ms", 1234.5 / factor, "1x1x64x64", "fp32"),
            ("essnet", "fastliver", "full", "rate", "TFLOP/s", 0.1 * factor, "1x1x64x64", "fp32"),
            ("essnet", "fastliver", "full", "share of matrix peak", "1", 0.5, "1x1x64x64", "fp32"),
            ("essnet", "fastliver", "full", "time", "ms", 9.0, "2x1x64x64", "fp32"),
        ]
        _write(folder, "train_step", steps)
        kernels = [
            ("stem", name, mode, metric, unit, value, "1x64x256x256", "fp32")
            for mode in ("forward", "backward")
            for name, metric, unit, value in (
                ("fastliver", "rate", "GB/s", 20.0),
                ("fastliver", "time", "ms", 2.0),
                ("fastliver", "speed vs copy", "x", 0.8),
                ("copy", "rate", "GB/s", 25.0),
                ("copy", "time", "ms", 1.6),
            )
        ]
        _write(folder, "kernels", kernels)
        scale = [
            ("essnet", "fastliver", "full", "time", "ms", 5.0 * batch * side, f"{batch}x1x{side}x{side}", "fp32")
            for batch, side in ((1, 64), (2, 64), (1, 96))
        ]
        scale += [
            ("essnet ranks", f"fastliver {n} ranks", "full", "rate", "images/s", 1.9 * n, "1x1x64x64", "fp32")
            for n in (1, 2)
        ]
        _write(folder, "scaling", scale)
        sizes = [
            (
                "essnet",
                "fastliver",
                "plain, slices on the device",
                "process_estimated",
                "GiB",
                2.0 * n,
                f"{n}x1x256x256",
                "fp32",
            )
            for n in (1, 2)
        ]
        _write(folder, "memory", sizes)
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    return tmp_path


def test_readme_table_has_the_newest_of_the_first_shape_gpus_first(made_up):
    text = tables.readme_table()
    assert text.index("15x stock fp32") < text.index("1.5x stock fp32")
    assert "| EssNet training step 1x1x64x64, fp32 | 1,234 ms | 1.5x stock fp32 |" in text
    assert "A Processor, 2 threads, torch 9.9, 2026-01-02" in text


def test_every_ratio_is_listed_with_its_spread(made_up):
    assert "| train_step | essnet 1x1x64x64 | full | fastliver fp32 | stock fp32 | 1.50 (0.75 to 3.00) |" in (
        tables.ratio_tables()
    )


def test_kernels_have_gigabytes_and_the_share_of_a_copy(made_up):
    text = tables.kernel_table()
    assert "| stem | 1x64x256x256 | fp32 | 20 (80%) | 20 (80%) |" in text
    assert text.index("Triton kernels") < text.index("PyTorch definitions")


def test_blocks_are_filled_and_the_rest_stays(made_up):
    page = "before\n<!-- results: readme -->\nold\n<!-- end -->\nafter\n"
    new = pages.filled(page)
    assert new.startswith("before\n<!-- results: readme -->\n")
    assert new.endswith("<!-- end -->\nafter\n")
    assert "old" not in new
    assert pages.filled(new) == new
    with pytest.raises(KeyError):
        pages.filled(page.replace("readme", "unheard-of"))


def test_without_a_gpu_s_results_it_says_so(made_up):
    page = "<!-- results: kernels -->\n<!-- end -->\n"
    assert pages.NO_GPU not in pages.filled(page)
    for path in (made_up / "some-gpu").iterdir():
        path.unlink()
    (made_up / "some-gpu").rmdir()
    assert pages.NO_GPU in pages.filled(page)


def test_the_committed_pages_are_what_the_committed_results_say(capsys):
    assert pages.main(["--check"]) == 0, "run: make pages"


def test_check_finds_a_page_that_is_out_of_date(monkeypatch, tmp_path, made_up):
    (tmp_path / "README.md").write_text("<!-- results: readme -->\n<!-- end -->\n")
    monkeypatch.setattr(pages, "REPOSITORY", tmp_path)
    monkeypatch.setattr(pages, "PAGES", ("README.md",))
    assert pages.main(["--check"]) == 1
    assert pages.main([]) == 0
    assert pages.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("figure", "texts"),
    {
        "ratios": ["fastliver beside others", "1.50"],
        "kernels": ["operators, forward", "GB/s", "copy"],
        "train_step": ["TFLOP/s", "50%"],
        "scaling": ["essnet, side 64", "essnet, ranks", "ideal"],
        "memory": ["essnet, 256x256", "GiB of the whole process"],
    }.items(),
)
def test_figures_show_their_results_and_repeat_to_the_byte(figure, texts, made_up, tmp_path):
    pytest.importorskip("matplotlib")
    rows = newest_results(made_up / "cpu")
    files = []
    for name in ("a", "b"):
        plot.svg(plot.FIGURES[figure](rows), tmp_path / f"{name}.svg")
        files.append((tmp_path / f"{name}.svg").read_text(encoding="utf-8"))
    assert files[0] == files[1]
    for text in texts:
        assert f">{text}" in files[0], text
    assert plot.FIGURES[figure]([]) is None


def test_the_peak_is_what_the_share_says(made_up):
    """0.1 TFLOP/s is half of what is possible, so the grey bar ends at 0.2."""
    figure = plot.step_roofline(newest_results(made_up / "cpu"))
    assert [round(bar.get_width(), 6) for bar in figure.axes[0].patches] == [0.2, 0.1]
