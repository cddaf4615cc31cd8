"""What this computer has: cores, and the memory and disk that are left, asked of the operating system."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_ASSUMED_MEMORY = 8 << 30  # bytes


def cores() -> int:
    """How many cores this process may use, which can be fewer than there are (taskset, SLURM, containers)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int | None:
    """Bytes a new process can use without swapping, within the limit of its control group; None when not told."""
    limits = [value for value in (_meminfo(), _control_group()) if value is not None]
    if limits:
        return max(0, min(limits))
    try:  # macOS: no count of what is free; half of the memory is a fair expectation
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return None


def memory_to_hold() -> int:
    """``available_memory``, or 8 GiB where the system does not tell: what a header's claims are held against."""
    free = available_memory()
    return _ASSUMED_MEMORY if free is None else free


def available_disk(folder: Path) -> int | None:
    """Bytes this user can still write in ``folder``; None when the file system does not say."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def gigabytes(size: float) -> str:
    """A size in bytes for people: ``1.5 GB``; small ones in MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_group() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        used = int((group / "memory.current").read_text(encoding="ascii"))
        reclaimable = 0
        for line in (group / "memory.stat").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == "inactive_file":  # page cache that the kernel gives back under pressure
                reclaimable = int(value)
        return int(limit) - used + reclaimable
    except (OSError, ValueError):
        return None
