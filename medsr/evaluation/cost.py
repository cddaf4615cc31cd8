"""How much memory a part of a run needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_RESET_PEAK = "5"  # written to clear_refs: the high-water mark begins anew (Linux, proc(5))


@dataclass
class Peak:
    """megabytes: the most that the process held in memory at once; None where the system does not tell."""

    megabytes: float | None = None


@contextlib.contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the process inside the block, all that it held before included; memory of a GPU is not counted.

    Linux alone can begin its high-water mark anew; elsewhere it would be that of the whole run, and is left out.
    """
    peak = Peak()
    process = Path("/proc/self")
    try:
        (process / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        yield peak
        return
    yield peak
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = (process / "status").read_text().splitlines()
        kilobytes = next(line for line in lines if line.startswith("VmHWM:")).split()[1]
        peak.megabytes = int(kilobytes) * 1024 / 1e6
