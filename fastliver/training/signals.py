"""SIGINT (Ctrl-C) and SIGTERM: the first saves and leaves, the second leaves at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from fastliver.errors import Interrupted

CAUGHT = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Catches SIGINT and SIGTERM between its start and end as a context.

    A signal raises Interrupted wherever the program stands, so that half-written files are removed on the way out;
    within `held()` it waits in `caught` until the block is through. The second one meets the system's own handler and
    kills the process, whatever it is busy with.

    Args:
        forwarded: a launcher hands signals on, so that one Ctrl-C arrives twice (and ends what doesn't leave): the
            second is ignored.
    """

    def __init__(self, forwarded: bool = False) -> None:
        self.caught: signal.Signals | None = None
        self._forwarded, self._held = forwarded, False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._take) for number in CAUGHT}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.caught = signal.Signals(number)
        for other in CAUGHT:
            signal.signal(other, signal.SIG_IGN if self._forwarded else signal.SIG_DFL)
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
