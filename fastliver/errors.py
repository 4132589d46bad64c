"""The two errors a command reports: bad input (exit code 2) and a failed run (exit code 1)."""


class InputError(Exception):
    """The user's data or options are wrong; the message says "file: field and value; remedy"."""

    exit_code = 2

    @property
    def problem(self) -> str:
        """The message without its remedy, for a command that has another one."""
        return str(self).rpartition("; ")[0] or str(self)


class RunError(Exception):
    """The run itself failed (divergence, collapse, full disk); the message says where and what to do."""

    exit_code = 1
