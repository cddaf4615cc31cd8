"""Work on a volume in blocks, on all cores: a metric then needs little memory beside the volume itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from medsr.machine import cores

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def blocks(count: int, size: int) -> list[slice]:
    """0 to ``count`` in runs of ``size``, the last one shorter where it must be."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def on_cores(work: Callable[[Item], Outcome], items: Iterable[Item]) -> list[Outcome]:
    """``work`` done on every item, in threads, results in the order of the items, whatever the number of cores.

    Threads help because numpy and scipy let go of the interpreter while they count. Raises what ``work`` raises.
    """
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(work, items))
