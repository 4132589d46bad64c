"""Which commands there are, told by the files; what the shell needs to complete them."""

import ast
import importlib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

BASH = """# fastliver's commands and options for bash; for zsh, after: autoload -U bashcompinit && bashcompinit
_fastliver() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} options=
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{commands}" -- "$word"))
    return
  fi
  case ${{COMP_WORDS[1]}} in
{cases}
  esac
  [[ $word == -* ]] && COMPREPLY=($(compgen -W "$options" -- "$word"))
}}
complete -o default -o bashdefault -F _fastliver fastliver
"""


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


def bash_completion() -> str:
    """A script that completes the console script `fastliver` in bash."""
    lines = []
    commands = find_commands()
    for name in commands:
        module = load_command(name)
        options = ["--help"]
        if hasattr(module, "build_parser"):
            options = [text for action in module.build_parser()._actions for text in action.option_strings]
        lines.append(f'    {name}) options="{" ".join(option for option in options if option[:2] == "--")}" ;;')
    return BASH.format(commands=" ".join(commands), cases="\n".join(lines))
