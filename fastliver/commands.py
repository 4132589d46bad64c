"""Which commands there are, told by the files; what a shell needs to complete them."""

import ast
import importlib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

SHELLS = ("bash", "zsh", "fish")


def find_commands() -> dict[str, str]:
    """Each command's name and what it does: the modules that can be run, by the first line of their docstring."""
    found = {}
    for path in sorted([*HERE.glob("*.py"), *HERE.glob("*/__main__.py")]):
        name = path.parent.name if path.name == "__main__.py" else path.stem
        text = path.read_text(encoding="utf-8")
        if path.parent / path.name != HERE / "__main__.py" and '\nif __name__ == "__main__":' in text:
            line = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0].replace("\n", " ")
            found[name] = line.partition(": ")[2] or line
    return found


def load_command(name: str) -> Any:
    """The module of a command."""
    package = (HERE / name / "__main__.py").exists()
    return importlib.import_module(f"fastliver.{name}.__main__" if package else f"fastliver.{name}")


def completion(shell: str) -> str:
    """A script that completes the console script `fastliver` in one of `SHELLS`: commands, options and values."""
    import shtab
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="fastliver")
    subcommands = parser.add_subcommands(required=False)
    for name, text in find_commands().items():
        module = load_command(name)
        command = module.build_parser() if hasattr(module, "build_parser") else ArgumentParser()
        for action in command._actions:
            # As a shell does for a command that it knows nothing of: whatever may be any text may be a path.
            if getattr(action, "_typehint", None) in (str, str | None):
                action.complete = shtab.FILE  # type: ignore[union-attr]
        subcommands.add_subcommand(name, command, help=text)
    return parser.get_completion_script(f"shtab-{shell}")
