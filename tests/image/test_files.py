from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from medsr.errors import JobError, PlanError
from medsr.image import files
from medsr.image.files import atomic_files, atomic_write, display_name, sha256_of


def interrupted_write(path: Path, fault: BaseException, *, overwrite: bool = False) -> None:
    with atomic_write(path, overwrite=overwrite) as stream:
        stream.write(b"half")
        raise fault


def write_to_full_device(path: Path) -> None:
    with atomic_write(path) as stream, Path("/dev/full").open("wb") as full:
        os.dup2(full.fileno(), stream.fileno())
        stream.write(b"x" * 100_000)


def test_writes_whole_files(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a b \N{GREEK SMALL LETTER MU}\n.nii") as stream:
        stream.write(b"scan")
        assert len(list(tmp_path.iterdir())) == 1, "only the temporary name is there while writing"
    assert [p.name for p in tmp_path.iterdir()] == ["a b \N{GREEK SMALL LETTER MU}\n.nii"]
    assert (tmp_path / "a b \N{GREEK SMALL LETTER MU}\n.nii").read_bytes() == b"scan"


@pytest.mark.parametrize("fault", [RuntimeError("bug"), KeyboardInterrupt(), SystemExit(143)])
def test_failure_leaves_nothing(tmp_path: Path, fault: BaseException) -> None:
    with pytest.raises(type(fault)):
        interrupted_write(tmp_path / "out.nii", fault)
    assert not list(tmp_path.iterdir())


def test_failure_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "out.nii").write_bytes(b"old")
    with pytest.raises(RuntimeError):
        interrupted_write(tmp_path / "out.nii", RuntimeError("bug"), overwrite=True)
    assert (tmp_path / "out.nii").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_killed_while_writing(tmp_path: Path) -> None:
    """kill -9 runs no cleanup: the final name must not have appeared."""
    code = (
        "import os, pathlib, sys; from medsr.image.files import atomic_write\n"
        "with atomic_write(pathlib.Path(sys.argv[1])) as s:\n"
        "    s.write(b'x' * 100000); s.flush(); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out.nii")], cwd=root, check=False)
    assert done.returncode == -9
    assert not (tmp_path / "out.nii").exists()


def test_existing_output(tmp_path: Path) -> None:
    path = tmp_path / "out.nii"
    path.write_bytes(b"old")
    with pytest.raises(PlanError, match="exists"), atomic_write(path):
        pytest.fail("the block must not be entered")
    with atomic_write(path, overwrite=True) as stream:
        stream.write(b"new")
    assert path.read_bytes() == b"new"


def test_two_processes_on_one_output(tmp_path: Path) -> None:
    """The file that another process made meanwhile is not overwritten."""
    path = tmp_path / "out.nii"
    with pytest.raises(PlanError, match="exists"), atomic_write(path):
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert len(list(tmp_path.iterdir())) == 1


def test_symbolic_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"original")
    link = tmp_path / "out.nii"
    link.symlink_to(tmp_path / "store")
    with atomic_write(link, overwrite=True) as stream:
        stream.write(b"new")
    assert (tmp_path / "store").read_bytes() == b"original"
    assert not link.is_symlink()
    assert link.read_bytes() == b"new"


def test_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    (tmp_path / "out.nii").symlink_to(tmp_path / "nowhere")
    with pytest.raises(PlanError, match="exists"), atomic_write(tmp_path / "out.nii"):
        pass


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "out.nii") as stream:
            stream.write(b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "out.nii").stat().st_mode & 0o777 == 0o640


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="does not exist"), atomic_write(tmp_path / "none" / "out.nii"):
        pass


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(JobError, match="not permitted"), atomic_write(tmp_path / "out.nii"):
            pass
    finally:
        tmp_path.chmod(0o700)


def test_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "out.nii").mkdir()
    with pytest.raises(JobError, match="folder"), atomic_write(tmp_path / "out.nii", overwrite=True) as stream:
        stream.write(b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["out.nii"]


def test_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="too long"), atomic_write(tmp_path / ("x" * 300 + ".nii"), overwrite=True) as s:
        s.write(b"x")
    assert not list(tmp_path.iterdir())


def test_longest_name_that_the_file_system_takes(tmp_path: Path) -> None:
    """The temporary name must not be longer than the final one may be."""
    path = tmp_path / ("x" * 251 + ".nii")
    with atomic_write(path) as stream:
        stream.write(b"x")
    assert path.exists()


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "quota")])
def test_full_disk(tmp_path: Path, code: int, words: str) -> None:
    with pytest.raises(JobError, match=words):
        interrupted_write(tmp_path / "out.nii", OSError(code, os.strerror(code)))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_full_device_is_told(tmp_path: Path) -> None:
    """A real ENOSPC from the operating system, on a stream that buffers."""
    with pytest.raises(JobError, match="disk is full"):
        write_to_full_device(tmp_path / "out.nii")
    assert not list(tmp_path.iterdir())


# --- several files at once


def put(path: Path, data: bytes) -> None:
    with atomic_write(path) as stream:
        stream.write(data)


def write_both(volume: Path, sidecar: Path, *, overwrite: bool, meanwhile: Callable[[], None] | None = None) -> None:
    with atomic_files([volume, sidecar], overwrite=overwrite) as folder:
        put(folder / volume.name, b"volume")
        put(folder / sidecar.name, b"sidecar")
        if meanwhile is not None:
            meanwhile()


def test_files_appear_together(tmp_path: Path) -> None:
    volume, extra, sidecar = (tmp_path / name for name in ("a.nii", "a_std.nii", "a.json"))
    with atomic_files([extra, volume, sidecar]) as folder:
        put(folder / volume.name, b"volume")
        put(folder / sidecar.name, b"sidecar")
        assert not any(path.exists() for path in (volume, extra, sidecar))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.nii": b"volume", "a.json": b"sidecar"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_one_file_fails_and_none_changes(tmp_path: Path, overwrite: bool) -> None:
    """A folder in the way of the last file: the first one, already in place, is taken back."""
    volume, sidecar = tmp_path / "a.nii", tmp_path / "a.json"
    if overwrite:
        volume.write_bytes(b"old")
    fault = JobError if overwrite else PlanError
    with pytest.raises(fault):
        write_both(volume, sidecar, overwrite=overwrite, meanwhile=sidecar.mkdir)
    assert sidecar.is_dir()
    assert volume.exists() == overwrite
    assert not overwrite or volume.read_bytes() == b"old"
    assert not list(tmp_path.glob(".medsr*"))


@pytest.mark.parametrize("step", [0, 1])
def test_interrupted_between_the_final_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    volume, sidecar = tmp_path / "a.nii", tmp_path / "a.json"
    volume.write_bytes(b"old volume")
    sidecar.write_bytes(b"old sidecar")
    publish, done = files._publish, []

    def interrupted(staging: Path, path: Path, *, overwrite: bool) -> None:
        if path.parent == tmp_path and len(done) == step:
            raise KeyboardInterrupt
        publish(staging, path, overwrite=overwrite)
        if path.parent == tmp_path:
            done.append(path)

    monkeypatch.setattr(files, "_publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_both(volume, sidecar, overwrite=True)
    found = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert found == {"a.nii": b"old volume", "a.json": b"old sidecar"}


def test_only_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """kill -9 leaves a hidden folder; the next write removes it, but not that of a process that is still at work."""
    code = (
        "import os, pathlib, sys, time; from medsr.image.files import atomic_write\n"
        "with atomic_write(pathlib.Path(sys.argv[1])) as s:\n"
        "    s.write(b'x' * 100000); s.flush(); print('writing', flush=True); time.sleep(100)"
    )
    root = Path(__file__).resolve().parents[2]
    hidden = []
    with contextlib.ExitStack() as stack:
        for name in ("killed", "alive"):
            command = [sys.executable, "-c", code, str(tmp_path / name)]
            process = stack.enter_context(subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            hidden += [path for path in tmp_path.glob(".medsr-*") if path not in hidden]
            if name == "killed":
                process.kill()
                process.wait()
        put(tmp_path / "out.nii", b"x")
        assert sorted(path.exists() for path in hidden) == [False, True]
        assert hidden[1].exists()


def test_hash(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc" * 1000)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(b"abc" * 1000).hexdigest()


def test_name_stays_on_one_line() -> None:
    assert display_name(Path("/x/Schädel 1.nii")) == "Schädel 1.nii"
    assert display_name(Path("a\nb\x1b[31m.nii")) == "a\\nb\\x1b[31m.nii"
    assert display_name(Path("bad\udcff.nii")) == "bad\\udcff.nii"


def write_folder(folder: Path, sidecar: Path, text: str, *, overwrite: bool, fails: bool = False) -> None:
    with atomic_files([folder, sidecar], overwrite=overwrite) as staging:
        (staging / folder.name).mkdir()
        for number in range(3):
            (staging / folder.name / f"{number}").write_text(text)
        (staging / sidecar.name).write_text(text)
        assert not folder.is_dir() or (folder / "0").read_text() != text
        if fails:
            raise KeyboardInterrupt


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder, sidecar = tmp_path / "series", tmp_path / "series.json"
    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, sidecar, "new", overwrite=False, fails=True)
    assert list(tmp_path.iterdir()) == []
    write_folder(folder, sidecar, "new", overwrite=False)
    assert contents(tmp_path) == {"series/0": "new", "series/1": "new", "series/2": "new", "series.json": "new"}
    with pytest.raises(PlanError, match="exists"):
        write_folder(folder, sidecar, "newer", overwrite=False)
    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, sidecar, "newer", overwrite=True, fails=True)
    assert set(contents(tmp_path).values()) == {"new"}
    (folder / "left over").write_text("old")
    write_folder(folder, sidecar, "newer", overwrite=True)
    assert contents(tmp_path) == {"series/0": "newer", "series/1": "newer", "series/2": "newer", "series.json": "newer"}


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("there", [False, True])
def test_interrupted_after_a_folder_took_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, there: bool
) -> None:
    folder, sidecar = tmp_path / "series", tmp_path / "series.json"
    if there:
        write_folder(folder, sidecar, "old", overwrite=False)
    before = contents(tmp_path)
    publish, done = files._publish, []

    def interrupted(staging: Path, path: Path, *, overwrite: bool) -> None:
        if len(done) == step:
            raise KeyboardInterrupt
        publish(staging, path, overwrite=overwrite)
        done.append(path)

    monkeypatch.setattr(files, "_publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, sidecar, "new", overwrite=True)
    assert contents(tmp_path) == before
    assert folder.exists() == there


def test_a_folder_takes_no_place_of_a_file(tmp_path: Path) -> None:
    folder, sidecar = tmp_path / "series", tmp_path / "series.json"
    folder.write_text("a file")
    with pytest.raises(PlanError, match="exists"):
        write_folder(tmp_path / "series", sidecar, "new", overwrite=True)
    assert contents(tmp_path) == {"series": "a file"}


@pytest.mark.skipif(sys.platform != "linux", reason="only there can two folders change places in one step")
def test_a_replaced_folder_is_never_missing(tmp_path: Path) -> None:
    """Whoever looks while it is replaced, or after a kill, finds the old or the new folder, whole."""
    folder, sidecar = tmp_path / "series", tmp_path / "series.json"
    write_folder(folder, sidecar, "0", overwrite=False)
    writer = threading.Thread(
        target=lambda: [write_folder(folder, sidecar, str(n), overwrite=True) for n in range(1, 200)]
    )
    writer.start()
    looks = 0
    while writer.is_alive():
        assert folder.is_dir()
        looks += 1
    writer.join()
    assert looks > 0
    assert set(contents(tmp_path).values()) == {"199"}
