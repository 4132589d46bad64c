"""The table of how good the synthetic images are."""

from fastliver.reporting.results import SOURCES
from fastliver.reporting.table import BLANK, Cell, Column, Table, count_cell, number_cell, spread_cell, text_cell
from fastliver.run_folder import RunFolder


def quality_table(run: RunFolder) -> Table | None:
    """How good the synthetic images are."""
    found = {job: value for job in SOURCES if (value := run.read_result(f"quality-{job}"))}
    if not found:
        return None
    first = next(iter(found.values()))
    regions = list(first["distance"])
    columns = (
        Column("Images", ("images_by",), numeric=False),
        Column("Count", ("count",)),
        *(Column(f"Distance, {region}", (f"distance_{region}",)) for region in regions),
        Column("S agrees with label", ("agreement_mean",)),
        Column("5 % of slices below", ("agreement_p5",)),
        Column("Dropped by filter", ("dropped", "dropped_share")),
        Column("FID", ("fid",)),
        Column("KID", ("kid", "kid_deviation")),
    )
    rows: list[tuple[Cell, ...]] = []
    for job, value in found.items():
        distance = value["distance"]
        if not rows:
            blank = (number_cell(None),) * 2
            rows.append(
                (
                    text_cell("CT, untranslated"),
                    count_cell(value["images"]),
                    *(number_cell(distance[region]["ct"]) for region in regions),
                    *blank,
                    spread_cell(None, None),
                    number_cell(None),
                    spread_cell(None, None),
                )
            )
        agreement = value["agreement"] or {}
        features = run.read_result(f"features-{job}") or {}
        share = agreement["dropped"] / value["images"] if agreement else None
        rows.append(
            (
                text_cell(f"Synthetic MR by {SOURCES[job]}"),
                count_cell(value["images"]),
                *(number_cell(distance[region]["synthetic"]) for region in regions),
                number_cell(agreement.get("mean")),
                number_cell(agreement.get("p5")),
                Cell(BLANK, (None, None))
                if share is None
                else Cell(f"{agreement['dropped']:,} ({share:.1%})", (agreement["dropped"], share)),
                number_cell(features.get("fid"), 2),
                spread_cell(features.get("kid"), features.get("kid_deviation")),
            )
        )
    note = (
        f"Distance: how far grey values lie from those of {first['real']:,} real MR slices that "
        f"{' and '.join(SOURCES[job] for job in found)} learned from (1-Wasserstein, where black to white is 2); less "
        "is closer."
    )
    if any(value["agreement"] for value in found.values()):
        limit = next(value["agreement"]["threshold"] for value in found.values() if value["agreement"])
        note += (
            " S agrees: mean Dice between the segmentor's mask of a synthetic slice and the label carried over from "
            "its CT. S and G1 were trained together, so this shows failures, not quality. The filter would drop slices "
            f"below a Dice of {limit:g}."
        )
    networks = {result["network"] for result in run.read_results("features-")}
    note += (
        f" FID and KID on the features of {', '.join(sorted(networks))}."
        if networks
        else " FID and KID were not measured; the report's --feature-network adds them."
    )
    return Table("quality", "Synthetic MR beside real MR", note, columns, tuple(rows))
