"""The machine of a measurement in words: cores, instruction sets, memory and versions; never a name or a place."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "sve", "bf16")


def in_words() -> str:
    """One line, such as: 2 cores of an x86_64 processor (avx2, avx512f), 24 GB of memory, Python 3.11, torch 2.13."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = [name for name in INSTRUCTIONS if name in _flags()]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return (
        f"{cores} cores of an {platform.machine()} processor ({', '.join(flags) or 'instruction sets unknown'}), "
        f"{memory:.0f} GB of memory, Python {platform.python_version()}, torch {version('torch')}"
    )


def _flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())
