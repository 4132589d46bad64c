"""The two errors a command reports: bad input (exit code 2) and a failed run (exit code 1)."""


class InputError(Exception):
    """The user's data or options are wrong; the message names file, field, value and remedy."""

    exit_code = 2


class RunError(Exception):
    """The run itself failed (divergence, collapse, full disk); the message says where and what to do."""

    exit_code = 1
