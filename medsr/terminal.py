"""What a terminal shows while a run goes on: a bar with the time left, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medsr.run import Progress as Report


def printable(text: str) -> str:
    """Control characters and bytes that are no text, escaped, so that no file name can forge output."""
    return "".join(c if c.isprintable() or c in "\n" else ascii(c)[1:-1] for c in text)


@contextmanager
def progress(*, quiet: bool) -> Iterator[Report | None]:
    """A bar with the time left on a terminal, plain lines elsewhere, both on stderr."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _plain_lines()


@contextmanager
def _bar() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        current = ""

        def report(stage: str, share: float) -> None:
            nonlocal current
            if stage != current:
                current = stage
                bar.reset(task, description=printable(stage), total=1.0)
            bar.update(task, completed=share)

        yield report


def _plain_lines() -> Report:
    """One line at the start of each stage, and then every quarter of it that took longer than five seconds."""
    current, quarter, last = "", 0, 0.0

    def report(stage: str, share: float) -> None:
        nonlocal current, quarter, last
        now = time.monotonic()
        if stage != current:
            current, quarter, last = stage, 0, now
            print(printable(stage), file=sys.stderr, flush=True)
        elif int(4 * share) > quarter and now - last > 5:
            quarter, last = int(4 * share), now
            print(printable(f"{stage} {share:.0%}"), file=sys.stderr, flush=True)

    return report
