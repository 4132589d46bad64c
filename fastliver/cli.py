"""Command lines: options from the dataclasses of `config`, presets, and errors as messages with an exit code."""

import dataclasses
import errno
import io
import os
import sys
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import yaml
from jsonargparse import ActionYesNo, ArgumentParser, Namespace
from rich.console import Console

from fastliver.config import PRESETS, TrainConfig, flatten, option_name, sections
from fastliver.errors import InputError, Interrupted, OtherRankFailed, RunError, run_again

INTERRUPTED = 130
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def run_command(main: Callable[[], None], again: Callable[[], str] = run_again) -> int:
    """Run a command; a bad input or a failure becomes one message and its exit code (2, 1 or 3).

    Of several ranks under torchrun each says its own errors, and the first alone what concerns all.

    Args:
        main: the command.
        again: says how to go on with what was interrupted; called only then.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # of a stream that wants to know where it stands
                # A terminal that lacks a letter is no reason to end.
                stream.reconfigure(errors="replace")
    console = Console(stderr=True, emoji=False)
    rank = os.environ.get("RANK", "0") if os.environ.get("WORLD_SIZE", "1") != "1" else None

    def fail(message: str, code: int) -> int:
        who = "" if rank is None else f"rank {rank}: "
        with suppress(SystemExit):  # so rich ends a process whose output nobody reads
            console.print(f"{who}error: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
        return code

    try:
        main()
    except OtherRankFailed as error:
        return error.exit_code
    except (InputError, RunError) as error:
        return fail(str(error), error.exit_code)
    except Interrupted as error:
        message = str(error) if error.remedy else f"{error}; {again()}"
        return fail(message, error.exit_code) if rank in (None, "0") else error.exit_code
    except KeyboardInterrupt:
        return fail(f"interrupted; {again()}", INTERRUPTED)
    except SystemExit as ended:
        if ended.code != 1:
            raise
        # So rich ends a process whose output nobody reads any more.
        return fail(f"what read the output has ended; {again()}", 1)
    except OSError as error:
        if error.errno in DISK_FULL:
            where = f" while writing {error.filename}" if error.filename else ""
            return fail(f"the disk is full{where} ({error.strerror}); free some space; {again()}", 1)
        return fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1)
    return 0


def add_settings(parser: ArgumentParser) -> None:
    """One option for each setting of TrainConfig, spelled with dashes, in a group for each section."""
    for section in sections():
        kind = section.default_factory
        group = parser.add_argument_group(f"{section.name}: {kind.__doc__.splitlines()[0]}")
        hints = typing.get_type_hints(kind)
        for item in dataclasses.fields(kind):
            name = f"--{option_name(section.name, item.name)}"
            default = flatten(TrainConfig())[name[2:].replace("-", "_")]
            text = item.metadata["help"]
            if hints[item.name] is bool:
                group.add_argument(name, action=ActionYesNo(yes_prefix="", no_prefix="no-"), default=default, help=text)
            else:
                group.add_argument(name, type=hints[item.name], default=default, help=text)


def option_value(arguments: Sequence[str], name: str) -> str | None:
    """The last value given to `--name` among raw arguments, or None."""
    found = None
    for position, argument in enumerate(arguments):
        if argument == f"--{name}" and position + 1 < len(arguments):
            found = arguments[position + 1]
        elif argument.startswith(f"--{name}="):
            found = argument.split("=", 1)[1]
    return found


def read_settings(path: Any) -> dict[str, Any]:
    """The settings in a YAML file.

    Raises:
        InputError: when it can't be read or isn't a mapping.
    """
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: can't be read as settings ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no settings, expected lines such as image_size: 256")
    return values


def parse(parser: ArgumentParser, arguments: Sequence[str], default_preset: str) -> Namespace:
    """Parse a command line: the preset gives defaults, `--config` overrides them, options override both.

    Args:
        parser: with `add_settings`, `--preset` and `--config` on it.
        arguments: the raw command line.
        default_preset: what holds when neither the command line nor the file names one.
    """
    config = option_value(arguments, "config")
    values = read_settings(config) if config is not None else {}
    preset = option_value(arguments, "preset") or values.get("preset") or default_preset
    parser.set_defaults({**PRESETS[preset], "preset": preset})
    if config is None:
        return parser.parse_args(list(arguments))
    # The file goes first, wherever it was named, so that every option overrides it.
    rest, skip = [], False
    for argument in arguments:
        if skip or argument == "--config" or argument.startswith("--config="):
            skip = argument == "--config"
            continue
        rest.append(argument)
    return parser.parse_args([f"--config={config}", *rest])
