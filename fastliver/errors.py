"""The errors a command reports: bad input (exit code 2), a failed run (1), and a few bad patients among many (3)."""


class InputError(Exception):
    """The user's data or options are wrong; the message names file, field, value and remedy."""

    exit_code = 2


class RunError(Exception):
    """The run itself failed (divergence, collapse, full disk); the message says where and what to do."""

    exit_code = 1


class SomeFailed(InputError):
    """Some of many patients could not be worked on, the others are done; the message lists them."""

    exit_code = 3
