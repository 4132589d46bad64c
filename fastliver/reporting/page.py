"""The report as one HTML file that opens offline: no scripts, nothing loaded from elsewhere."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from string import Template

from fastliver import __version__
from fastliver.reporting import learning_curve
from fastliver.reporting.picture import Picture
from fastliver.reporting.summary import QUESTION, Caveat, answer, caveats
from fastliver.reporting.table import Table
from fastliver.run_folder import RunFolder

STYLE = """
:root { color-scheme: light dark; --text: #1c2126; --soft: #59636e; --page: #fff; --line: #d9dee3; --panel: #f5f7f9;
  --accent: #0072b2; --warn: #fff6df; --warn-line: #d99a00; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ec; --soft: #9aa5b1; --page: #14181c; --line: #333b43;
  --panel: #1d2329; --accent: #6bb8ea; --warn: #2c2512; --warn-line: #d99a00; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 2rem 1.25rem 3rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; }
h2 { margin: 2.75rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); font-size: 1.25rem; }
p { margin: .5rem 0; max-width: 60rem; }
header p, .note, figcaption, footer { color: var(--soft); font-size: .875rem; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 3px; }
nav { margin: 1.5rem 0; font-size: .875rem; }
nav ul { margin: 0; padding-left: 1.15rem; }
.answer { margin: 1.5rem 0; padding: 1rem 1.25rem; border-left: 4px solid var(--accent); background: var(--panel); }
.answer h2 { margin: 0; padding: 0; border: 0; font-size: 1rem; font-weight: 600; color: var(--soft); }
.answer .short { margin: .15rem 0 .5rem; font-size: 1.3rem; font-weight: 650; }
.answer ul { margin: 0; padding-left: 1.15rem; }
.caveats { margin: 1.5rem 0; padding: .8rem 1.25rem; border-left: 4px solid var(--warn-line);
  background: var(--warn); }
.caveats h2 { margin: 0 0 .25rem; padding: 0; border: 0; font-size: 1rem; }
.caveats ul { margin: 0; padding-left: 1.15rem; }
.scroll { overflow-x: auto; margin: 1.75rem 0 .25rem; }
table { border-collapse: collapse; font-size: .8125rem; font-variant-numeric: tabular-nums; }
caption { position: sticky; left: 0; max-width: calc(100vw - 2.5rem); padding: 0 0 .5rem; text-align: left;
  font-size: 1rem; font-weight: 600; }
th, td { padding: .35rem .5rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { vertical-align: bottom; white-space: normal; border-bottom: 2px solid var(--soft); font-weight: 600; }
tbody th { position: sticky; left: 0; max-width: 40vw; background: var(--page); white-space: normal; font-weight: 500; }
th:first-child, td:first-child { padding-left: 0; }
.words { text-align: left; }
figure { margin: 1.75rem 0; }
figure .card { padding: .75rem; border: 1px solid var(--line); border-radius: 6px; background: #fff;
  text-align: center; }
figure img { max-width: 100%; height: auto; vertical-align: middle; }
figcaption { margin-top: .5rem; max-width: 60rem; }
figcaption b { color: var(--text); }
details { margin: .75rem 0; }
summary { cursor: pointer; }
pre { overflow-x: auto; padding: .8rem 1rem; background: var(--panel); font-size: .8125rem; line-height: 1.45; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; margin: .75rem 0; font-size: .875rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
footer { margin-top: 3rem; padding-top: .75rem; border-top: 1px solid var(--line); }
@media print {
  :root { --text: #000; --soft: #444; --page: #fff; --line: #bbb; --panel: #f5f5f5; --warn: #fff6df;
    --accent: #0072b2; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  .scroll { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding: .2rem .25rem; white-space: normal; }
  figure, table, .answer, .caveats { break-inside: avoid; }
  figure img { max-height: 20cm; }
  nav { display: none; }
  details::details-content { content-visibility: visible; }
  pre { overflow: visible; white-space: pre-wrap; }
  h2 { break-after: avoid; }
}
"""

# The policy makes the browser itself refuse anything but this file's own style and images.
PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<p>$subtitle</p>
</header>
<main>
$body
</main>
<footer>
<p>Made by fastliver $version from this run's folder alone. For research use; not a medical device: neither these
results nor the networks behind them are meant for diagnosis or treatment.</p>
</footer>
</body>
</html>
""")


def _list(items: Sequence[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{item}</li>" for item in items) + "\n</ul>"


def _answer(run: RunFolder) -> str:
    found = answer(run)
    return (
        f'<section class="answer">\n<h2>{escape(QUESTION)}</h2>\n<p class="short">{escape(found.short)}</p>\n'
        f"{_list([escape(sentence) for sentence in found.sentences])}\n</section>"
    )


def _caveat(caveat: Caveat) -> str:
    if not caveat.items:
        return escape(caveat.text)
    items = _list([escape(item) for item in caveat.items])
    return f"{escape(caveat.text)}\n<details><summary>Which</summary>\n{items}\n</details>"


def _caveats(run: RunFolder) -> str:
    found = [_caveat(caveat) for caveat in caveats(run)]
    return f'<section class="caveats">\n<h2>Before you believe it</h2>\n{_list(found)}\n</section>' if found else ""


def _table(table: Table) -> str:
    def cell(tag: str, text: str, numeric: bool, scope: str = "") -> str:
        kind = "" if numeric else ' class="words"'
        return f"<{tag}{scope}{kind}>{escape(text)}</{tag}>"

    head = "".join(cell("th", column.label, column.numeric, ' scope="col"') for column in table.columns)
    rows = []
    for first, *rest in table.rows:
        cells = [cell("th", first.text, table.columns[0].numeric, ' scope="row"')]
        cells += [cell("td", value.text, column.numeric) for value, column in zip(rest, table.columns[1:], strict=True)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body, note = "\n".join(rows), f"{table.note} {table.page_note}".strip()
    return (
        f'<div class="scroll" id="{table.name}-table" role="region" aria-label="{escape(table.title)}" tabindex="0">\n'
        f"<table>\n<caption>{escape(table.title)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f'<tbody>\n{body}\n</tbody>\n</table>\n</div>\n<p class="note">{escape(note)}</p>'
    )


def _figure(picture: Picture, png: bytes) -> str:
    data = base64.b64encode(png).decode()
    return (
        f'<figure id="{picture.name}-figure">\n<div class="card"><img alt="{escape(picture.alt)}" '
        f'src="data:image/png;base64,{data}"></div>\n'
        f"<figcaption><b>{escape(picture.title)}.</b> {escape(picture.caption)}</figcaption>\n</figure>"
    )


def _section(title: str, parts: Sequence[str]) -> str:
    if not parts:
        return ""
    head = f'<section id="{title.lower().replace(" ", "-")}" aria-label="{title}">\n<h2>{title}</h2>\n'
    return head + "\n".join(parts) + "\n</section>"


def _links(places: Mapping[str, str]) -> str:
    return ", ".join(f'<a href="#{place}">{escape(title)}</a>' for place, title in places.items())


def _contents(tables: Sequence[Table], pictures: Sequence[Picture], others: Mapping[str, str]) -> str:
    """Links to all that follows, which on a telephone or with a screen reader is far below."""
    groups = {
        "Tables": {f"{table.name}-table": table.title for table in tables},
        "Figures": {f"{picture.name}-figure": picture.title for picture in pictures},
        "Also": others,
    }
    lines = [f"{name}: {_links(places)}" for name, places in groups.items() if places]
    return f'<nav aria-label="Contents">\n{_list(lines)}\n</nav>'


def _environment(run: RunFolder) -> dict[str, str]:
    return {key: str(value) for key, value in run.read_environment().items()}


def _definitions(values: Mapping[str, str]) -> str:
    lines = "\n".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in values.items())
    return f"<dl>\n{lines}\n</dl>"


def _sources(run: RunFolder) -> str:
    data = run.read_result("data")
    if data is None:
        return ""
    return _definitions({f"{source['name']} from": source["path"] for source in data["sources"]})


def make_page(run: RunFolder, tables: Sequence[Table], pictures: Sequence[tuple[Picture, bytes]]) -> str:
    """The whole page; `pictures` come with their PNGs."""
    environment = _environment(run)
    name = run.root.resolve().name
    settings = escape(run.config.read_text(encoding="utf-8"))
    config = f"<details>\n<summary>config.yaml</summary>\n<pre>{settings}</pre>\n</details>"
    shown_tables = {table.name: _table(table) for table in tables}
    shown_pictures = {picture.name: _figure(picture, png) for picture, png in pictures}
    curve = [shown.pop(learning_curve.NAME, "") for shown in (shown_pictures, shown_tables)]
    sections = {
        "How many labelled patients": [part for part in curve if part],
        "Tables": list(shown_tables.values()),
        "Figures": list(shown_pictures.values()),
        "Settings": [part for part in (_sources(run), config) if part],
        "Environment": [_definitions(environment)] if environment else [],
    }
    others = {title.lower(): title for title in ("Settings", "Environment") if sections[title]}
    parts = [
        _answer(run),
        _caveats(run),
        _contents(tables, [picture for picture, _ in pictures], others),
        *(_section(title, found) for title, found in sections.items()),
    ]
    about = [environment[key] for key in ("date", "device") if environment.get(key)]
    return PAGE.substitute(
        title=escape(f"Liver segmentation with synthetic MRI: {name}"),
        subtitle=escape(" · ".join(["EssNet + U-Net", *about])),
        style=STYLE,
        body="\n".join(part for part in parts if part),
        version=escape(__version__),
    )
