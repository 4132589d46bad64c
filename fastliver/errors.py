"""The errors a command reports: bad input (exit code 2), a failed run (1), and a few bad patients among many (3)."""


def run_again() -> str:
    """How to go on with a command that keeps nothing of what it has begun."""
    return "run the command again"


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


class OtherRankFailed(RunError):
    """Another rank of a distributed run failed; it says itself why, so this one ends without a word."""


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP ends the run; like KeyboardInterrupt it passes every `except Exception`.

    Args:
        name: of the signal.
        number: of the signal; 128 more is the exit code, as a shell has it.
        remedy: how to go on; without it the command says that.
    """

    def __init__(self, name: str, number: int, remedy: str | None = None) -> None:
        super().__init__(f"interrupted by {name}" + (f"; {remedy}" if remedy else ""))
        self.exit_code, self.remedy = 128 + number, remedy


class SomeFailed(InputError):
    """Some of many patients could not be worked on, the others are done; the message lists them."""

    exit_code = 3
