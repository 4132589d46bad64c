"""`python -m benchmarks.pages`: the tables of README and docs from the newest results.

A page names what it wants between `<!-- results: NAME -->` and `<!-- end -->`; what stands between is replaced. A test
fails where a page is not what the results say.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence

from benchmarks.tables import REPOSITORY, devices, kernel_table, paper_tables, plots, ratio_tables, readme_table

PAGES = ("README.md", "docs/benchmarks.md", "docs/kernels.md")
BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
NO_GPU = "Not measured on a GPU yet.\n"
CONTENT: dict[str, Callable[[], str]] = {
    "readme": readme_table,
    "ratios": ratio_tables,
    "kernels": kernel_table,
    "plots": plots,
    "paper": paper_tables,
}


def filled(page: str) -> str:
    """A page with its blocks made anew.

    Raises:
        KeyError: for a block of an unknown name.
    """
    has_gpu = any(name != "cpu" for name, _ in devices())

    def block(match: re.Match[str]) -> str:
        made = CONTENT[match[2]]()
        note = "" if has_gpu or match[2] == "plots" else f"\n{NO_GPU}"
        return f"{match[1]}\n{made}{note}\n{match[3]}"

    return BLOCK.sub(block, page)


def main(arguments: Sequence[str]) -> int:
    """Write the pages; with `--check` only say which are out of date, and end with 1 if one is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=(__doc__ or "").split(": ")[1])
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args(arguments)
    stale = []
    for name in PAGES:
        path = REPOSITORY / name
        before = path.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            stale.append(name)
            if not options.check:
                path.write_text(after, encoding="utf-8")
    print(f"{'out of date' if options.check else 'made anew'}: {', '.join(stale) or 'nothing'}")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
