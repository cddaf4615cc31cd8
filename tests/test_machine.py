"""What a computer is said to have, against what is set on it here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from medsr import machine
from medsr.machine import available_disk, cores, gigabytes


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_cores_are_those_that_the_process_may_use():
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{one}]); from medsr.machine import cores; print(cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 1
    assert cores() == len(os.sched_getaffinity(0))


def test_disk(tmp_path):
    free = available_disk(tmp_path)
    assert free is not None
    assert 0 < free < 1 << 60
    assert available_disk(tmp_path / "missing") is None


@pytest.mark.parametrize(("size", "text"), [(1.5e9, "1.5 GB"), (1e8, "0.1 GB"), (99e6, "99.0 MB"), (0, "0.0 MB")])
def test_gigabytes(size, text):
    assert gigabytes(size) == text


@pytest.mark.parametrize(("told", "held"), [(None, 8 << 30), (0, 0), (5, 5)])
def test_memory_is_guessed_only_where_the_system_does_not_tell(monkeypatch, told, held):
    """No memory left is an answer, not the lack of one."""
    monkeypatch.setattr(machine, "available_memory", lambda: told)
    assert machine.memory_to_hold() == held
