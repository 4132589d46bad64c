"""The whole report: figures that show something, and one page that needs nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastliver.errors import InputError
from fastliver.reporting import build_report
from fastliver.reporting.figures import FIGURES, losses_picture, make_pictures
from fastliver.reporting.images import AGREEMENT, EXTRA, MISSED, _overlay, _window
from fastliver.reporting.summary import answer, caveats
from fastliver.reporting.tables import TABLES
from fastliver.run_folder import RunFolder

MakeRun = Callable[..., RunFolder]


class Page(HTMLParser):
    """Collects the tags of a page and checks that they nest."""

    VOID = frozenset({"meta", "img", "br", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_part_is_written(built: RunFolder) -> None:
    assert {path.stem for path in built.tables.iterdir()} == set(TABLES)
    assert {path.stem for path in built.figures.iterdir()} == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_show_something(built: RunFolder, name: str) -> None:
    with Image.open(built.figures / f"{name}.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 300
    assert pixels.std() > 10
    assert (pixels[:2] > 250).mean() > 0.5, "the background is white"


def test_page_stands_alone(built: RunFolder) -> None:
    text = built.report.read_text(encoding="utf-8")
    page = Page(text)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(FIGURES)
    assert all(image["alt"] for image in images)
    (curves,) = (image["alt"] for image in images if image["alt"].startswith("ROC"))
    assert curves.endswith("Combined (1064); Combined (1064), CycleGAN."), "one can hear where a curve's name ends"
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "base")
        for key in ("src", "href", "srcset", "poster"):
            assert (attributes.get(key) or "data:").startswith(("data:", "#"))
    without_images = re.sub(r"data:image/png;base64,[^\"]*", "", text)
    assert "http://" not in without_images and "https://" not in without_images
    assert "url(" not in without_images and "@import" not in without_images


def test_page_can_be_used_without_a_mouse(built: RunFolder) -> None:
    """Links lead somewhere; a table that scrolls takes the focus and has a name, cells have headers."""
    text = built.report.read_text(encoding="utf-8")
    page = Page(text)
    places = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert len(places) == len(set(places))
    assert len(links) == len(TABLES) + len(FIGURES) + 2
    assert {link[1:] for link in links if link} <= set(places)
    scrolled = [attributes for _, attributes in page.tags if attributes.get("class") == "scroll"]
    assert len(scrolled) == len(TABLES)
    assert all(box["tabindex"] == "0" and box["role"] == "region" and box["aria-label"] for box in scrolled)
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in page.tags if tag == "th")
    assert [tag for tag, _ in page.tags].count("caption") == len(TABLES)
    assert ":focus-visible" in text


def test_page_escapes_what_it_shows(built: RunFolder) -> None:
    text = built.report.read_text(encoding="utf-8")
    assert "&lt;b&gt;$x$[/red]" in text and "<b>$x$" not in text
    assert "a&lt;b&gt;.dcm: no pixel data" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "<script" not in text


def test_page_answers_first(built: RunFolder) -> None:
    text = built.report.read_text(encoding="utf-8")
    places = [text.index(part) for part in ("Did synthetic MR help?", "Before you believe it", ">Tables<", ">Figures<")]
    assert places == sorted(places)
    assert "Tested on 2 patients" in text
    assert "not a medical device" in text
    assert "fastliver train --ct CT --mr MR" in text


def test_rebuilding_gives_the_same(built: RunFolder, tmp_path: Path) -> None:
    again = RunFolder(tmp_path / built.root.name)
    shutil.copytree(built.root, again.root, ignore=shutil.ignore_patterns("*.csv", "*.png", "*.html"))
    build_report(again)
    for made in (*built.tables.iterdir(), *built.figures.iterdir(), built.report):
        assert (again.root / made.relative_to(built.root)).read_bytes() == made.read_bytes()


@pytest.mark.parametrize(
    ("kept", "names"),
    [
        ("nothing", []),
        ("samples-essnet.npz", ["synthesis"]),
        ("samples-*.npz", ["synthesis", "ablation"]),
        ("unet-real-0-seed0.*", ["segmentation", "patients", "roc"]),
        ("unet-*-seed1.json", ["patients", "arrangements", "roc"]),
        ("unet-cyclegan-714-seed2.*", ["segmentation", "patients", "roc"]),
        ("unet-essnet-714-seed1*", ["segmentation", "patients", "extremes", "roc"]),
    ],
)
def test_missing_results_leave_figures_out(make_run: MakeRun, kept: str, names: list[str]) -> None:
    run = make_run(size=24, slices=2, steps=20)
    run.metrics.unlink()
    for path in (run.root / "results").iterdir():
        if not path.match(kept):
            path.unlink()
    assert [picture.name for picture in make_pictures(run)] == names


def test_a_bare_run_still_has_a_page(make_run: MakeRun) -> None:
    run = make_run(size=24, slices=2, steps=20, seeds=1)
    for path in (run.root / "results").iterdir():
        path.unlink()
    run.metrics.unlink()
    run.environment.unlink()
    # What an earlier report left and this one can't make again must not stay.
    stale = [run.tables / "ablation.csv", run.figures / "ablation.png"]
    for path in stale:
        path.parent.mkdir()
        path.touch()
    text = build_report(run).read_text(encoding="utf-8")
    Page(text)
    assert "No answer yet." in text
    assert not any(path.exists() for path in stale)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results/data.json", "{cut"),
        ("results/unet-real-0-seed0.json", "[1]"),
        ("environment.json", ""),
        ("metrics.jsonl", '{"job": "essnet", "step": 1}\n{"job"\n'),
        ("results/samples-essnet.npz", "PK cut"),
    ],
)
def test_names_a_damaged_file(make_run: MakeRun, name: str, content: str) -> None:
    run = make_run(size=24, slices=2, steps=20, seeds=1)
    (run.root / name).write_text(content)
    with pytest.raises(InputError, match=f"{name}: .*delete"):
        build_report(run)


def test_answer_by_interval(make_run: MakeRun) -> None:
    run = make_run(size=24, slices=2, steps=20)
    found = answer(run)
    assert found.short.startswith("Yes")
    assert any("+0.0283 (95 % interval +0.0212 to +0.0355 over 3 seeds)" in sentence for sentence in found.sentences)
    assert any("higher combined for 2 of the 2" in sentence for sentence in found.sentences)
    assert any("in the U-Nets' training" in sentence and "of one network" in sentence for sentence in found.sentences)
    for path in (run.root / "results").glob("unet-essnet-714-*"):
        path.unlink()
    found = answer(run)
    assert found.short.startswith("Not shown")
    assert "the smallest arrangement" in found.sentences[0]


def test_answer_with_one_seed(make_run: MakeRun) -> None:
    run = make_run(size=24, slices=2, steps=20, seeds=1)
    found = answer(run)
    assert "settles nothing" in found.short
    assert any("one seed: no interval" in sentence for sentence in found.sentences)


def test_caveats(make_run: MakeRun) -> None:
    run = make_run(size=24, slices=2, steps=20, seeds=1)
    assert [caveat.items for caveat in caveats(run)] == [(), (), ("a<b>.dcm: no pixel data",)]
    assert "52,500 steps on real images alone and 159,600 on combined ones" in caveats(run)[0].text
    for path in (run.root / "results").glob("unet-*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": 300}))
    assert [caveat.items for caveat in caveats(run)] == [(), ("a<b>.dcm: no pixel data",)]
    for name in ("unet-real-0-seed0", "unet-cyclegan-714-seed0"):
        result = run.read_result(name)
        assert result is not None
        result["scores"]["dice"] = 0.0 if name == "unet-real-0-seed0" else 0.001
        run.write_result(name, result)
    assert caveats(run)[0].text.startswith("Real only (350): a U-Net found no liver")
    assert [caveat.text for caveat in caveats(run)[1:]] == ["Tested on 2 patients: too few to speak for others.",
                                                            "CT: 1 file was skipped."]  # fmt: skip
    found = run.read_result("quality-essnet")
    assert found is not None
    run.write_result("quality-essnet", found | {"agreement": found["agreement"] | {"mean": 0.31}})
    assert "hardly shows the liver" in caveats(run)[1].text
    assert "Dice 0.31" in caveats(run)[1].text
    run.write_result("quality-essnet", found)
    (run.root / "results" / "unet-real-0-seed0.json").unlink()
    data = run.read_result("data")
    assert data is not None
    data["split"] |= {"test_patients": list("abcde"), "warning": "Slices of one patient stand on both sides."}
    data["sources"][0] |= {"skipped": [], "notes": ["two series"]}
    run.write_result("data", data)
    assert [caveat.text for caveat in caveats(run)] == [data["split"]["warning"], "CT: two series"]


def test_errors_are_coloured() -> None:
    truth = np.array([[True, True], [False, False]])
    predicted = np.array([[True, False], [True, False]])
    colours = (_overlay(truth, predicted) * 255).round().astype(int)
    shown = [["#{:02X}{:02X}{:02X}".format(*pixel[:3]) for pixel in row] for row in colours]
    assert shown == [[AGREEMENT, MISSED], [EXTRA, "#000000"]]
    assert colours[1, 1, 3] == 0


@pytest.mark.parametrize("corner", [(0, 0), (0, 90), (70, 0), (70, 90), (35, 45)])
def test_window_holds_the_masks(corner: tuple[int, int]) -> None:
    mask = np.zeros((80, 100), dtype=bool)
    y, x = corner
    mask[y : y + 10, x : x + 10] = True
    top, left, side = _window([mask, np.zeros_like(mask)])
    assert 0 <= top <= y and y + 10 <= top + side <= 80
    assert 0 <= left <= x and x + 10 <= left + side <= 100


def test_losses_of_an_unfinished_run(make_run: MakeRun) -> None:
    run = make_run(size=24, slices=2, steps=20, seeds=1)
    lines = [
        {"job": "essnet", "step": 10, "epoch": 0, "seconds": 1.0, "loss_seg": 3.0},
        {"job": "essnet", "step": 20, "epoch": 0, "seconds": 2.0, "loss_seg": float("nan")},
        {"job": "essnet", "step": 10, "epoch": 0, "seconds": 1.0, "loss_seg": 2.0},
        {"job": "unet-essnet-2050-seed0", "step": 1, "epoch": 0, "loss": 0.5},
    ]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"job": "ess')
    picture = losses_picture(run)
    assert picture is not None
    seg, unet = picture.figure.axes
    # The step logged twice counts once, as last written, and a value that is no number not at all.
    assert np.asarray(seg.lines[0].get_xydata()).tolist() == [[10.0, 2.0]]
    assert unet.lines[0].get_label() == "unet-essnet-2050-seed0"


def test_a_home_that_can_not_be_written_is_no_news(tmp_path: Path) -> None:
    (tmp_path / "home").touch()  # a file: nobody, not even root, makes a folder in it
    removed = ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}
    code = "import fastliver.reporting, matplotlib; print(matplotlib.get_cachedir())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert Path(done.stdout.strip()).parent == tmp_path  # the temporary folder that it would have told of
