"""The answer that the page opens with, and what a reader must know before believing it."""

from dataclasses import dataclass

from fastliver.reporting import paper
from fastliver.reporting.results import Estimate, Group, difference, find, load_curve, load_groups, patient_count, shown
from fastliver.run_folder import RunFolder

QUESTION = "Did synthetic MR help?"
FEW_PATIENTS = 5
POOR_AGREEMENT = 0.5
"""Mean Dice of S's segmentations and the carried labels below which a page warns of the synthetic images."""


@dataclass(frozen=True)
class Answer:
    """The short answer and the sentences that bear it out."""

    short: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Caveat:
    """One caveat, with the items that it speaks of where they are many."""

    text: str
    items: tuple[str, ...] = ()


def _short(change: Estimate) -> str:
    if change.low is None or change.high is None:
        side = "higher" if change.mean > 0 else "lower" if change.mean < 0 else "the same"
        return f"Dice is {side} with it here; without an interval that settles nothing."
    if change.low > 0:
        return "Yes, on these patients: Dice rose by more than chance in the U-Nets' training explains."
    if change.high < 0:
        return "No, on these patients: Dice fell by more than chance in the U-Nets' training explains."
    return "Not shown: the interval of the change includes zero."


def _change(combined: Group, base: Group, key: str, name: str) -> str:
    before, after, change = base.mean(key), combined.mean(key), difference(combined, base, key)
    if before is None or after is None or change is None:
        return ""
    if change.low is None:
        alone = len(base.runs) == len(combined.runs) == 1
        interval = "one seed: no interval" if alone else "fewer than two seeds in common: no interval"
    else:
        pairs = len(base.scores(key).keys() & combined.scores(key).keys())
        interval = f"95 % interval {change.low:+.4f} to {change.high:+.4f} over {pairs} seeds"
    return f"{name}: {before:.4f} with real images only, {after:.4f} combined, change {change.mean:+.4f} ({interval})."


def _patients(combined: Group, base: Group) -> str:
    before, after = base.patients("dice_per_patient"), combined.patients("dice_per_patient")
    common = before.keys() & after.keys()
    if not common:
        return ""
    higher = sum(after[patient] > before[patient] for patient in common)
    ranges = " and ".join(
        f"from {min(part.values()):.2f} to {max(part.values()):.2f} {name}"
        for part, name in ((before, "with real images only"), (after, "combined"))
    )
    return f"By patient, Dice runs {ranges}; it is higher combined for {higher} of the {len(common)} tested on."


def answer(run: RunFolder) -> Answer:
    """Real only against combined, in words."""
    groups = load_groups(run)
    base, combined = find(groups, "real"), shown(groups)
    if base is None or combined is None:
        missing = [
            name for name, group in (("real images only", base), ("synthetic images too", combined)) if group is None
        ]
        return Answer("No answer yet.", (f"It takes a U-Net trained on {' and one trained on '.join(missing)}.",))
    change = difference(combined, base, "dice")
    if change is None:
        return Answer("No answer yet.", ("The U-Nets have no Dice to compare.",))
    chosen = (
        "the arrangement that did best in the paper, not one chosen by these results"
        if combined.arrangement == paper.SHOWN_ARRANGEMENT
        else "the smallest arrangement of this run, not one chosen by these results"
    )
    sentences = [
        f"Compared are {base.real:,} real slices alone and {combined.real:,} real + {combined.synthetic:,} synthetic "
        f"({chosen}).",
        _change(combined, base, "dice", "Dice"),
        _change(combined, base, "iou", "IoU"),
        _patients(combined, base),
    ]
    if change.low is not None:
        sentences.append(
            "The interval covers the chance in the U-Nets' training, with the synthetic images of one network: neither "
            "the chance in that one's, nor the choice of patients."
        )
    theirs, start = paper.scores(combined.source, combined.arrangement), paper.SEGMENTATION[0]
    if theirs:
        sentences.append(
            f"The paper reports Dice {start.dice:.4f} and {theirs.dice:.4f}, change {theirs.dice - start.dice:+.4f}."
        )
    return Answer(_short(change), tuple(sentence for sentence in sentences if sentence))


def caveats(run: RunFolder) -> list[Caveat]:
    """What weakens the results: U-Nets that learned nothing or longer, the split, few patients, files not read."""
    data = run.read_result("data")
    if data is None:
        return []
    trained = [(group.label, group) for group in load_groups(run)]
    trained += [
        (f"{group.label}, labels of {patient_count(group.labelled)}", group)
        for group in load_curve(run)
        if not group.all_labelled
    ]
    found = [
        Caveat(f"{name}: a U-Net found no liver at all in the test slices, so it has learned nothing yet.")
        for name, group in trained
        if 0.0 in group.scores("dice").values()
    ]
    base, combined = find(load_groups(run), "real"), shown(load_groups(run))
    if base and combined and base.steps and combined.steps and base.steps != combined.steps:
        found.append(
            Caveat(
                f"The U-Nets took {base.steps:,} steps on real images alone and {combined.steps:,} on combined ones, "
                "as an epoch shows each image once: part of a change can be the longer training. "
                "--unet-epoch-slices gives all as many steps."
            )
        )
    for job in ("essnet", "cyclegan"):
        agreement = (run.read_result(f"quality-{job}") or {}).get("agreement")
        if agreement and agreement["mean"] < POOR_AGREEMENT:
            found.append(
                Caveat(
                    f"The synthetic MR hardly shows the liver where its label says: S finds it there to Dice "
                    f"{agreement['mean']:.2f} only."
                )
            )
    split = data["split"]
    if split["warning"]:
        found.append(Caveat(split["warning"]))
    patients = len(split["test_patients"])
    if patients < FEW_PATIENTS:
        found.append(Caveat(f"Tested on {patient_count(patients)}: too few to speak for others."))
    for source in data["sources"]:
        skipped = tuple(source["skipped"])
        if skipped:
            noun = "file was" if len(skipped) == 1 else "files were"
            found.append(Caveat(f"{source['name']}: {len(skipped)} {noun} skipped.", skipped))
        found += [Caveat(f"{source['name']}: {note}") for note in source["notes"]]
    return found
