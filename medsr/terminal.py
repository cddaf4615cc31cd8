"""What a terminal shows while a run goes on: a bar with the time left, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medsr.run import Progress as Report

_PERIOD, _PERIOD_OF_ALL = 30.0, 1800.0  # seconds over which the speed is averaged that tells the time left


def printable(text: str) -> str:
    """Control characters and bytes that are no text, escaped, so that no file name can forge output."""
    return "".join(c if c.isprintable() or c in "\n" else ascii(c)[1:-1] for c in text)


@contextmanager
def progress(*, quiet: bool, whole: bool = False) -> Iterator[Report | None]:
    """A bar with the time left on a terminal, plain lines elsewhere, both on stderr.

    whole: shares are of all that is to be done, whatever the stage is; else each stage begins at 0.
    """
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar(whole=whole) as report:
            yield report
    else:
        yield _lines_of_all() if whole else _plain_lines()


@contextmanager
def _bar(*, whole: bool) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    period = _PERIOD_OF_ALL if whole else _PERIOD
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, speed_estimate_period=period) as bar:
        task = bar.add_task("starting", total=1.0)
        current = ""

        def report(stage: str, share: float) -> None:
            nonlocal current
            if stage != current:
                current = stage
                if whole:
                    bar.update(task, description=printable(stage))
                else:
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


def _lines_of_all() -> Report:
    """One line at the start of each stage, with the share of all that is done and how long the rest will take."""
    began, current = time.monotonic(), ""

    def report(stage: str, share: float) -> None:
        nonlocal current
        if stage == current:
            return
        current = stage
        left = f", {(time.monotonic() - began) * (1 - share) / share / 60:.0f} min left" if share > 0 else ""
        print(printable(f"{stage} ({share:.0%} done{left})"), file=sys.stderr, flush=True)

    return report
