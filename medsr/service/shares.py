"""How the CPUs and GPUs of several computers are shared out among workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medsr.errors import PlanError


@dataclass(frozen=True)
class Share:
    """How a cluster is shared out: so many workers, each with so many CPUs and GPUs."""

    workers: int
    cpus: int
    gpus: int


def shared_out(nodes: Sequence[tuple[int, int]], workers: int | None, threads: int | None) -> Share:
    """Workers and their shares for nodes of so many (CPUs, GPUs).

    With GPUs there is one worker for each, or ``workers`` if that is less. Without, there are ``workers``, by default
    as many as nodes, with as many CPUs each as lets all of them find room; or ``threads`` CPUs each, and no more
    workers than have room. Raises PlanError when none has.
    """
    gpus = sum(g for _, g in nodes)
    if gpus:
        each = threads or max(1, min(c // g for c, g in nodes if g))
        return Share(min(workers or gpus, gpus), each, 1)
    most = max((c for c, _ in nodes), default=0)
    if most < (threads or 1):
        raise PlanError(
            f"no node of the cluster has {threads or 1} CPUs (the largest has {most}); give a smaller --threads or "
            "start nodes with more"
        )

    def room(each: int) -> int:
        return sum(c // each for c, _ in nodes)

    wanted = workers or sum(c > 0 for c, _ in nodes)
    each = threads or next((each for each in range(most, 0, -1) if room(each) >= wanted), 1)
    return Share(min(workers or room(each), room(each)), each, 0)
