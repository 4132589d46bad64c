"""The parser of every command: jsonargparse's, but its complaints are errors like the others, and say what to do."""

import re
import typing
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from fastliver.errors import InputError

UNKNOWN = re.compile(r"unrecognized arguments: (?P<name>[^\s=]+)")
NO_SETTING = re.compile(r"Option '(?P<name>\w+)' is not accepted")
BAD_VALUE = re.compile(r'Parser key "(?P<name>\w+)":.*?(?:Got|Given) value: (?P<value>[^\n]*)', re.DOTALL)
NO_CHOICE = re.compile(r"argument (?P<name>--[\w-]+): invalid choice: '(?P<value>.*)' \(choose from (?P<choices>.*)\)")
NO_CHOICE_IN_FILE = re.compile(r"""Parser key "(?P<name>\w+)": '(?P<value>.*)' not among choices \((?P<choices>.*)\)""")
NO_VALUE = re.compile(r"argument (?P<name>--[\w-]+)/(?P<opposite>--[\w-]+): ignored explicit argument '(?P<value>.*)'")
WORDS = {int: "a whole number", float: "a number"}


class CommandParser(ArgumentParser):
    """Takes options by their whole names alone, and raises InputError for what it can't take."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise InputError(self._explain(message)) from ex

    def _explain(self, message: str) -> str:
        if found := BAD_VALUE.search(message):
            name, kind = found["name"], self._types().get(found["name"])
            if kind is not None:
                return f"--{name.replace('_', '-')}={found['value']}: expected {self._wanted(name, kind)}"
        if found := NO_CHOICE.search(message) or NO_CHOICE_IN_FILE.search(message):
            name, choices = found["name"].removeprefix("--"), found["choices"].replace("'", "")
            return f"--{name.replace('_', '-')}={found['value']}: expected one of {choices}"
        if found := NO_VALUE.search(message):
            return f"{found['name']}={found['value']}: takes no value; its opposite is {found['opposite']}"
        if found := UNKNOWN.search(message):
            name = found["name"]
            if not name.startswith("-"):
                return f"{name}: nothing is expected there; --help says what is"
            options = [option for action in self._actions for option in action.option_strings]
            return f"{name}: no such option; {_suggest(name, options)}--help lists them"
        if found := NO_SETTING.search(message):
            return f"{found['name']}: no such setting; {_suggest(found['name'], self._types())}--help lists the options"
        return f"{message}; --help lists the options"

    def _types(self) -> dict[str, Any]:
        return {action.dest: getattr(action, "_typehint", None) for action in self._actions}

    def _wanted(self, name: str, kind: Any) -> str:
        """What values an option of this type takes, in words."""
        parts = typing.get_args(kind)
        if typing.get_origin(kind) is typing.Literal:
            return f"one of {', '.join(map(str, parts))}"
        if typing.get_origin(kind) is tuple:
            return f"{len(parts)} numbers in brackets, such as {list(self.get_defaults()[name])}"
        if parts:  # a union
            return " or ".join(self._wanted(name, part) for part in parts if part is not type(None))
        return WORDS.get(kind, "text")


def _suggest(name: str, names: Iterable[str]) -> str:
    """A question whether the nearest name is meant, if one is near."""
    near = get_close_matches(name, names, 1)
    return f"did you mean {near[0]}? " if near else ""
