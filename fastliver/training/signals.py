"""SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal is gone): the first saves and leaves, the second leaves at once."""

import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from fastliver.errors import Interrupted

HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none
CAUGHT = tuple(number for number in (signal.SIGINT, signal.SIGTERM, HANGUP) if number is not None)


class Signals:
    """Catches SIGINT, SIGTERM and SIGHUP between its start and end as a context.

    A signal raises Interrupted wherever the program stands, so that half-written files are removed on the way out;
    within `held()` it waits in `caught` until the block is through. The second one meets the system's own handler and
    kills the process, whatever it is busy with. But SIGHUP comes from the shell and from the kernel, so a second one is
    ignored, and where it was ignored before (nohup) it stays so.

    Args:
        forwarded: a launcher hands signals on, so that one Ctrl-C arrives twice (and ends what doesn't leave): the
            second is ignored.
    """

    def __init__(self, forwarded: bool = False) -> None:
        self.caught: signal.Signals | None = None
        self._forwarded, self._held = forwarded, False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        ignored = HANGUP is not None and signal.getsignal(HANGUP) == signal.SIG_IGN
        caught = (number for number in CAUGHT if not (ignored and number == HANGUP))
        self._before = {number: signal.signal(number, self._take) for number in caught}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.caught = signal.Signals(number)
        if number == HANGUP:
            _let_go_of_terminal()
        for other in self._before:
            signal.signal(other, signal.SIG_IGN if self._forwarded or other == HANGUP else signal.SIG_DFL)
        if not self._held:
            raise self.interrupted()

    def interrupted(self, remedy: str | None = None) -> Interrupted:
        """What to raise for the signal that was caught, here or by another rank; `remedy` says how to go on."""
        name, number = (self.caught.name, self.caught) if self.caught else ("a signal to another rank", signal.SIGTERM)
        return Interrupted(name, int(number), remedy)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait while the block runs; one that the block left waiting is raised at its end."""
        self._held = True
        try:
            self._leave()
            yield
        finally:
            self._held = False
        self._leave()

    def _leave(self) -> None:
        if self.caught is not None:
            raise self.interrupted()


def _let_go_of_terminal() -> None:
    """Send to nowhere what would go to a terminal that is gone, where the next line of progress would be an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
