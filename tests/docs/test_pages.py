"""README and docs name only files and options that there are."""

import importlib
import re
from functools import cache
from pathlib import Path

import pytest

from fastliver.commands import find_commands, load_command

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:-m fastliver\.|(?<![\w./-])fastliver )(\w+)((?: +[^\s`|#&;]+)*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")
FOREIGN = {
    *("--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint", "--rdzv-id", "--max-restarts"),  # torchrun
    "--logdir",  # tensorboard
    *("--repeats-check", "--minutes"),  # benchmarks
    "--completion",  # fastliver itself
}
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@cache
def options_of(command: str) -> frozenset[str]:
    """Every option that a command takes."""
    module = load_command(command)
    parsers = [module.build_parser()] if hasattr(module, "build_parser") else []
    return frozenset({"--help", *(text for parser in parsers for a in parser._actions for text in a.option_strings)})


def code_of(page: Path) -> list[str]:
    """The lines of code blocks, those that a backslash continues as one, and the code inside of lines."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(\S.*)$", rest, re.MULTILINE)
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", rest)]
    return [*(line for block in fenced for line in block.splitlines()), *indented, *inline]


@pages
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(REPOSITORY), link
        assert target.exists(), link
        if heading:
            lines = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", line).strip().lower().replace(" ", "-") for line in lines}
            assert heading in anchors, link


@pages
def test_commands_take_the_options_that_they_are_shown_with(page: Path) -> None:
    commands = find_commands()
    for line in code_of(page):
        for name, arguments in COMMAND.findall(line):
            assert name in commands, line
            unknown = set(OPTION.findall(arguments)) - options_of(name)
            assert not unknown, (line, unknown)


@pages
def test_every_option_belongs_to_a_command(page: Path) -> None:
    known = FOREIGN.union(*map(options_of, find_commands()))
    for line in code_of(page):
        if line.startswith("--") or "fastliver" in line:
            assert set(OPTION.findall(line)) <= known, line


def test_the_index_lists_every_page() -> None:
    index = (REPOSITORY / "docs" / "README.md").read_text(encoding="utf-8")
    assert {page.name for page in PAGES} - {"README.md"} == set(re.findall(r"\]\(([\w-]+\.md)\)", index))


def test_the_api_reference_names_modules_that_there_are() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (listed,) = re.findall(r"^API := (.*)$", makefile, re.MULTILINE)
    for name in listed.split():
        assert importlib.import_module(f"fastliver.{name}").__doc__, name
    packages = {path.parent.name for path in (REPOSITORY / "fastliver").glob("*/__init__.py")}
    assert packages <= set(listed.split())


def test_the_checks_see_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "see [a](missing.md) and `--no-such` and `python -m fastliver.train\n--sead 1`\n\n```sh\n"
        "python -m fastliver.segment --run x \\\n    --mask y | tail --lines 3 # --z\nfastliver evaluate --forse\n```\n"
        "    torchrun --nproc-per-node 2 -m fastliver.train --seedz 1\n"
    )
    for check in (
        test_links_lead_to_files,
        test_commands_take_the_options_that_they_are_shown_with,
        test_every_option_belongs_to_a_command,
    ):
        with pytest.raises(AssertionError):
            check(page)
    found = [(name, OPTION.findall(rest)) for line in code_of(page) for name, rest in COMMAND.findall(line)]
    assert found == [
        ("segment", ["--run", "--mask"]),
        ("evaluate", ["--forse"]),
        ("train", ["--seedz"]),
        ("train", ["--sead"]),
    ]
