"""A progress bar with loss, speed and time left; plain lines where there is no terminal."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

LINE_SECONDS = 10.0
"""Between the lines that stand in for a bar where output goes to a file."""

TEXT, PACE, SHORTEST_BAR = 70, 42, 8
"""Columns of a terminal that the words of a training take, those on its pace, and a bar that is worth drawing."""


class Bar:
    """One job's progress.

    Attributes:
        pace: speed and memory, shown from the next update on.
    """

    def __init__(
        self, console: Console, title: str, total: int, progress: Progress | None, task: TaskID | None
    ) -> None:
        self.console, self.title, self.total, self.progress, self.task = console, title, total, progress, task
        self.started = self.shown = time.monotonic()
        self.first: int | None = None
        self.pace = ""

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` of the total are done, with a short note such as the loss."""
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=done, note=note, pace=self.pace)
            return
        now = time.monotonic()
        if self.first is None:
            # Work done before this bar (a resumed run) says nothing about the speed.
            self.first, self.started = done, now
        if done < self.total and now - self.shown < LINE_SECONDS:
            return
        self.shown = now
        rate = (done - self.first) / max(now - self.started, 1e-9)
        left = f", {clock((self.total - done) / rate)} left" if rate > 0 and done < self.total else ""
        pace = f", {self.pace}" if self.pace else ""
        self.console.print(f"{self.title} {done}/{self.total} {note}{left}{pace}", soft_wrap=True)


@contextmanager
def bar(console: Console, title: str, total: int) -> Iterator[Bar]:
    """Show a bar while the block runs."""
    if not console.is_terminal:
        yield Bar(console, title, total, None, None)
        return
    has_pace = console.width >= TEXT + PACE + SHORTEST_BAR
    room = console.width - TEXT - (PACE if has_pace else 0)
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False),
        *([BarColumn(min(room, 40))] if room >= SHORTEST_BAR else []),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        *([TextColumn("{task.fields[pace]}", markup=False)] if has_pace else []),
    ]
    with Progress(*columns, console=console) as progress:
        yield Bar(console, title, total, progress, progress.add_task(title, total=total, note="", pace=""))


def clock(seconds: float) -> str:
    """Seconds as a person reads them: 42 s, 3 min 05 s, 6 h 23 min, 2 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
