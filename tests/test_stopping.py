"""A stop between any two steps of Python: nothing half-written, and it is never lost."""

from __future__ import annotations

import gzip
import os
import random
import signal
import sys
from pathlib import Path
from types import FrameType

import pytest

from medsr import stopping
from medsr.image.files import atomic_files, atomic_write

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each step is tried in a process of its own")

STOPPED, FINISHED, OTHERWISE = 143, 0, 1
SAMPLES = 80  # of some 5,000 steps; all of them passed when this was written
NEW = {"a.nii.gz": b"new image" * 400, "a.json": b"new text"}


def write_files(folder: Path, *, overwrite: bool) -> None:
    """Two files, one of them through gzip: what is raised in the clean-up of its object is swallowed by Python."""
    paths = [folder / name for name in NEW]
    with atomic_files(paths, overwrite=overwrite) as staging:
        for path in paths:
            with atomic_write(staging / path.name) as stream:
                if path.suffix == ".gz":
                    with gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as zipped:
                        zipped.write(NEW[path.name])
                    del zipped
                else:
                    stream.write(NEW[path.name])


def write_series(folder: Path, *, overwrite: bool) -> None:
    """A folder of files, and a file beside it."""
    paths = [folder / "series", folder / "series.json"]
    with atomic_files(paths, overwrite=overwrite) as staging:
        (staging / "series").mkdir()
        for number in range(3):
            (staging / "series" / f"{number}.dcm").write_bytes(b"new %d" % number)
        (staging / "series.json").write_bytes(b"new text")


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of every file, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Steps:
    """Counts the steps (byte codes) of what is called while it traces, and sends SIGTERM at one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.count, self._at = 0, at

    def __call__(self, frame: FrameType, event: str, argument: object):
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            self.count += 1
            if self.count == self._at:
                sys.settrace(None)
                os.kill(os.getpid(), signal.SIGTERM)
        return self


def traced(write, folder: Path, steps: Steps, *, overwrite: bool) -> None:
    sys.settrace(steps)
    try:
        write(folder, overwrite=overwrite)
    finally:
        sys.settrace(None)


def stopped(write, folder: Path, step: int, *, overwrite: bool) -> int:
    """In a process of its own; its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = OTHERWISE
    try:
        stopping.listen()
        traced(write, folder, Steps(step), overwrite=overwrite)
        stopping.raise_heard()
        code = FINISHED
    except stopping.Terminated:
        code = STOPPED
    finally:
        os._exit(code)


@pytest.mark.parametrize("write", [write_files, write_series])
@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
def test_at_any_step(tmp_path, write, overwrite):
    """Old or new, never a mixture, and nothing hidden is left."""
    folder = tmp_path / "new"
    folder.mkdir()
    write(folder, overwrite=False)
    new = contents(folder)
    old = {name: bytes(reversed(data)) for name, data in new.items()} if overwrite else {}

    def fresh(name: str) -> Path:
        made = tmp_path / name
        for file, data in old.items():
            (made / file).parent.mkdir(parents=True, exist_ok=True)
            (made / file).write_bytes(data)
        made.mkdir(exist_ok=True)
        return made

    whole = Steps()
    traced(write, fresh("whole"), whole, overwrite=overwrite)
    rng = random.Random(0)
    outcomes = set()
    for step in sorted(rng.sample(range(1, whole.count), SAMPLES)):
        folder = fresh(str(step))
        code = stopped(write, folder, step, overwrite=overwrite)
        left = contents(folder)
        assert code == STOPPED, (step, code)
        assert left in (old, new), (step, sorted(left))
        assert not list(folder.glob(".medsr-*")), step
        outcomes.add(left == new)
    assert outcomes == {False, True}


def test_other_handlers_see_no_change():
    """Those of a program that uses medsr as a library."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with stopping.uninterrupted() as block:
            with pytest.raises(KeyboardInterrupt), block.interruptible():
                signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
