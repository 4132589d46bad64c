"""`python -m fastliver`, and the console script `fastliver`: lists the commands, or runs one.

`fastliver train ...` is `python -m fastliver.train ...`.
"""

import argparse
import runpy
import sys
from difflib import get_close_matches

from fastliver import __version__
from fastliver.commands import SHELLS, completion, find_commands

EXAMPLE = "example: fastliver train --help (or: python -m fastliver.train --help)"
PLACES = """completion by the tab key, once for each version:
  fastliver --completion bash > ~/.local/share/bash-completion/completions/fastliver
  fastliver --completion zsh > ~/.zfunc/_fastliver    (with "fpath+=(~/.zfunc)" before "compinit" in ~/.zshrc)
  fastliver --completion fish > ~/.config/fish/completions/fastliver.fish"""


def main() -> int:
    """List the commands, or become the one that is named first."""
    commands = find_commands()
    if len(sys.argv) > 1 and sys.argv[1] in commands:
        name = sys.argv.pop(1)
        runpy.run_module(f"fastliver.{name}", run_name="__main__", alter_sys=True)
        return 0
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        near = get_close_matches(sys.argv[1], commands, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(commands)}"
        print(f"error: {sys.argv[1]}: no such command; {hint}", file=sys.stderr)
        return 2
    listed = "\n".join(f"  {name:<12} {text}" for name, text in commands.items())
    parser = argparse.ArgumentParser(
        prog="fastliver",
        description="Labelled synthetic MRI from labelled CT, and a liver U-Net that learns from it.",
        epilog=f"commands:\n{listed}\n\n{EXAMPLE}\n\n{PLACES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"fastliver [-h] [--version] [--completion {{{','.join(SHELLS)}}}] <command> [options]",
    )
    parser.add_argument("--version", action="version", version=f"fastliver {__version__}")
    parser.add_argument("--completion", choices=SHELLS, help="print the script that completes commands, "
                        "options and their values with the tab key")  # fmt: skip
    options = parser.parse_args()
    print(completion(options.completion) if options.completion else parser.format_help(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
