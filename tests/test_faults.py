"""Faults from outside, with real processes, signals and disks: nothing half-written, the next run is as any other."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medsr.errors import JobError, PlanError
from medsr.request import Request
from medsr.run import plan_file, upscale_file

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")
SECONDS = 300  # after which a child is given up
OPTIONS = ("--device", "cpu", "--threads", "1", "--texture", "0.5", "--sampler", "euler", "--steps", "12")
PAGE = 4096

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals, mounts and /proc as on Linux")


def request(tiny_model: Path, **fields) -> Request:
    """What ``OPTIONS`` ask for."""
    return Request(model=str(tiny_model), device="cpu", threads=1, texture=0.5, sampler="euler", steps=12, **fields)


def save(path: Path) -> Path:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (24, 22, 12)], indexing="ij"), axis=-1)
    image = 500 * (np.square(grid / 0.8).sum(-1) < 1) + rng.normal(40, 5, grid.shape[:3])
    nibabel.save(nibabel.Nifti1Image(np.clip(image, 0, None).astype(np.int16), np.diag([1.0, 1.0, 4.0, 1.0])), path)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


NAMES = ["a_T1w.nii.gz", "a_T1w_sr.json", "a_T1w_sr.nii.gz"]


@pytest.fixture
def scan(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    return save(folder / "a_T1w.nii.gz")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_model) -> str:
    """Hash of the output of a run that nothing happens to."""
    scan = save(tmp_path_factory.mktemp("undisturbed") / "a_T1w.nii.gz")
    return sha256(upscale_file(scan, None, request(tiny_model)).files["volume"])


class Upscaling:
    """``medsr upscale`` in a process of its own, which can be made to stand still at a stage of its work."""

    def __init__(self, scan: Path, model: Path, environment: dict[str, str], *options: str) -> None:
        self.output = scan.with_name("a_T1w_sr.nii.gz")
        self._log = scan.parent.parent / f"{time.monotonic_ns()}.log"  # a file, to be read while the process stands
        command = [sys.executable, "-m", "medsr", "upscale", str(scan), "--model", str(model), *OPTIONS, *options]
        with self._log.open("wb") as stream:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stream, env=environment
            )

    @property
    def lines(self) -> list[str]:
        return self._log.read_text().splitlines()

    def has_reached(self, stage: str) -> bool:
        """By the lines it printed and the files it made."""
        hidden = list(self.output.parent.glob(".medsr-*.part"))
        if stage == "write":
            return bool(hidden)
        if stage == "sidecar":  # the volume is whole but not yet in its place
            return any((folder / self.output.name).exists() for folder in hidden)
        return any(line.startswith(stage) for line in self.lines)

    def stands_at(self, stage: str) -> bool:
        """Let it run, in small steps where stages are short, until it has reached one; False if that was missed."""
        end = time.monotonic() + SECONDS
        first = "load model" if stage in ("write", "sidecar") else stage
        while not self.has_reached(first):
            assert time.monotonic() < end, f"{first!r} was not reached: {self.lines}"
            if self.process.poll() is not None:
                return False
            time.sleep(0.002)
        while True:
            self.process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if self.process.poll() is not None:
                return False
            if self.has_reached(stage):
                return True
            assert time.monotonic() < end, f"{stage!r} was not reached: {self.lines}"
            self.process.send_signal(signal.SIGCONT)
            time.sleep(0.0005 if self.has_reached("network") else 0.005)

    def go_on(self) -> int:
        """Its exit code."""
        self.process.send_signal(signal.SIGCONT)
        return self.process.wait(SECONDS)


@pytest.fixture
def start(scan, tiny_model, child_environment) -> Iterator[Callable[..., Upscaling]]:
    """Start upscaling ``scan``; with a stage, let it stand there. What still runs at the end of the test is killed."""
    runs: list[Upscaling] = []

    def started(*options: str, stage: str = "") -> Upscaling:
        for _ in range(4):
            runs.append(Upscaling(scan, tiny_model, child_environment, *options))
            if not stage or runs[-1].stands_at(stage):
                return runs[-1]
            assert runs[-1].process.returncode == 0, runs[-1].lines
            for path in scan.parent.glob("a_T1w_sr.*"):  # this machine was too busy to look in time
                path.unlink()
        pytest.fail(f"the stage {stage!r} was never seen")

    yield started
    for run in runs:
        run.process.kill()
        run.process.wait()


# --- killed, terminated, interrupted


@pytest.mark.parametrize("stage", ["read", "load model", "network", "write", "sidecar"])
def test_killed(start, scan, tiny_model, undisturbed, stage):
    """kill -9 runs no cleanup. Nothing has a final name, and the next run clears up and gives the same voxels."""
    run = start(stage=stage)
    run.process.kill()
    run.process.wait()
    left = names(scan.parent)
    assert [name for name in left if not name.startswith(".medsr-")] == [scan.name]
    assert (len(left) == 2) == (stage in ("write", "sidecar")), left
    done = upscale_file(scan, None, request(tiny_model))
    assert sha256(done.files["volume"]) == undisturbed
    assert names(scan.parent) == NAMES


@pytest.mark.parametrize(
    ("stage", "number", "code"),
    [
        ("read", signal.SIGINT, 130),
        ("load model", signal.SIGTERM, 143),
        ("write", signal.SIGINT, 130),
        ("sidecar", signal.SIGTERM, 143),
    ],
    ids=["read-INT", "load-TERM", "write-INT", "sidecar-TERM"],
)
def test_asked_to_stop(start, scan, undisturbed, stage, number, code):
    """At once, in one line, with the code of a shell, and without a trace; test_cli does the same in the network."""
    run = start(stage=stage)
    run.process.send_signal(number)
    assert run.go_on() == code, run.lines
    assert run.lines[-1].startswith("medsr: error: ")
    assert not any("Traceback" in line for line in run.lines)
    if stage == "sidecar" and names(scan.parent) == NAMES:  # it stood between the names that appear together
        assert sha256(run.output) == undisturbed
    else:
        assert names(scan.parent) == [scan.name]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(scan, tiny_model, child_environment, undisturbed, closed):
    """As daemons and schedulers start programs: the run is as any other, and no file gets a stream's number."""
    command = [sys.executable, "-m", "medsr", "upscale", str(scan), "--model", str(tiny_model), *OPTIONS]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command],
        capture_output=True, text=True, env=child_environment, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stdout + done.stderr
    assert sha256(scan.with_name("a_T1w_sr.nii.gz")) == undisturbed
    assert names(scan.parent) == NAMES


def run_script(path: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """As a module of its folder."""
    command = [sys.executable, "-m", path.stem]
    return subprocess.run(command, cwd=path.parent, env=environment, capture_output=True, text=True, check=False)


def test_interrupted_inside_exec(tmp_path, child_environment):
    """Imports that define dataclasses run exec; python -m would then end by the signal itself (-2), caught or not."""
    (tmp_path / "work.py").write_text(
        "from medsr import cli\n"
        "def work(*arguments, **options):\n"
        "    exec('import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)')\n"
        "cli.cli.main = work\n"
        "cli.main([])\n"
    )
    done = run_script(tmp_path / "work.py", child_environment)
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines() == ["medsr: error: interrupted; no half-written file was left"]


@pytest.mark.parametrize(("number", "word"), [("SIGINT", "interrupted"), ("SIGTERM", "terminated")])
@pytest.mark.parametrize("module", ["medsr.cli", "medsr.commands.models", "click"])
def test_stopped_while_it_starts(tmp_path, child_environment, module, number, word):
    """During the imports of the command line, before any command is known."""
    (tmp_path / "work.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(name, path, target=None):\n"
        f"        if name == {module!r}:\n"
        f"            os.kill(os.getpid(), signal.{number})\n"
        "sys.meta_path.insert(0, Finder)\n"
        "from medsr.__main__ import main\n"
        "main()\n"
    )
    done = run_script(tmp_path / "work.py", child_environment)
    assert done.returncode == 128 + signal.Signals[number], done.stderr
    assert done.stderr.splitlines() == [f"medsr: error: {word}; no half-written file was left"]


# --- rivals


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_runs_on_one_output(start, scan, tiny_model, overwrite):
    """The other run finishes while this one writes, which is then refused, or with --overwrite replaces both files."""
    run = start("--seed", "5", *(["--overwrite"] if overwrite else []), stage="write")
    other = upscale_file(scan, None, request(tiny_model, seed=6))
    theirs = {path: path.read_bytes() for path in other.files.values()}
    code = run.go_on()
    assert names(scan.parent) == NAMES
    now = {path: path.read_bytes() for path in other.files.values()}
    seed = json.loads(other.files["sidecar"].read_text())["plan"]["request"]["seed"]
    if overwrite:
        assert (code, seed) == (0, 5), run.lines
        assert now[other.files["volume"]] != theirs[other.files["volume"]]
        nibabel.load(other.files["volume"]).get_fdata()
    else:
        assert code == 4, run.lines
        assert "exists" in run.lines[-1]
        assert now == theirs


def test_two_runs_at_the_same_time(start, scan, undisturbed):
    runs = [start(), start()]
    codes = sorted(run.process.wait(SECONDS) for run in runs)
    assert codes == [0, 4], [run.lines for run in runs]
    assert names(scan.parent) == NAMES
    assert sha256(runs[0].output) == undisturbed


# --- disks


def mount_fault() -> str:
    """Why no file system can be mounted here; empty if one can."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return "only the superuser can mount a small disk"
    status = Path("/proc/self/status").read_text()
    rights = int(next(line for line in status.splitlines() if line.startswith("CapEff")).split()[1], 16)
    return "" if rights >> 21 & 1 else "this superuser may not mount (no CAP_SYS_ADMIN)"


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 8 MB, in memory."""
    if fault := mount_fault():
        pytest.skip(fault)
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        (pytest.fail if IN_CI else pytest.skip)(f"mounting a small disk failed: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave: int) -> None:
    """Use up a disk to the last ``leave`` pages."""
    free = os.statvfs(disk)
    pages = free.f_bavail * free.f_frsize // PAGE - leave
    (disk / "filler").write_bytes(bytes(pages * PAGE))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("stage", ["std", "detail", "volume", "sidecar"])
def test_full_disk(disk, tiny_model, stage, overwrite):
    """Space runs out while one of the files is written: exit code 7, and what was there before is there after."""
    scan = save(disk / "a_T1w.nii.gz")
    wanted = request(tiny_model, uncertainty=True, detail_map=True)
    files = upscale_file(scan, None, wanted).files
    order = ["std", "detail", "volume", "sidecar"]
    pages = {kind: -(-files[kind].stat().st_size // PAGE) for kind in order}
    room = sum(pages[kind] for kind in order[: order.index(stage) + 1]) - 1
    if not overwrite:
        for path in files.values():
            path.unlink()
    before = {path: path.read_bytes() for path in disk.iterdir()}

    def progress(name: str, share: float) -> None:
        if name == "write" and share == 0:
            fill(disk, room)

    with pytest.raises(JobError, match="disk is full") as caught:
        upscale_file(scan, None, wanted, progress, overwrite=overwrite)
    assert caught.value.exit_code == 7
    assert files[stage].name in str(caught.value)
    (disk / "filler").unlink()
    assert {path: path.read_bytes() for path in disk.iterdir()} == before


def test_read_only_disk(disk, tmp_path, tiny_model, undisturbed):
    scan = save(disk / "a_T1w.nii.gz")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(JobError, match="cannot write"):
        upscale_file(scan, None, request(tiny_model))
    done = upscale_file(scan, tmp_path / "elsewhere.nii.gz", request(tiny_model))
    assert sha256(done.files["volume"]) == undisturbed


# --- links


def test_no_way_to_the_input(scan, tmp_path, tiny_model):
    """Not by a symbolic link, a hard link, a link to its folder, a map's name or a sidecar's."""
    linked, folder = tmp_path / "linked_T1w.nii.gz", tmp_path / "folder"
    linked.symlink_to(scan)
    folder.symlink_to(scan.parent)
    hard = scan.with_name("hard.nii.gz")
    os.link(scan, hard)
    map_like = save(scan.with_name("b_std.nii.gz"))
    tries = [
        (scan, scan, {}),
        (scan, linked, {}),
        (linked, scan, {}),
        (linked, scan.with_name("a_T1w.nii"), {}),  # its sidecar would be that of the input
        (scan, folder / scan.name, {}),
        (scan, folder / "a_T1w.nii", {}),
        (scan, hard, {}),
        (map_like, scan.with_name("b.nii.gz"), {"uncertainty": True}),
    ]
    for source, output, fields in tries:
        with pytest.raises(PlanError, match="would replace the input"):
            plan_file(source, output, request(tiny_model, modality="mr", **fields), overwrite=True)


def test_links_are_read_through_and_never_written_through(scan, tmp_path, tiny_model, undisturbed):
    """As in a data store: the scan is a link to a read-only object, and so is an old output."""
    store = tmp_path / "store"
    store.mkdir()
    scan.rename(store / "object")
    (store / "object").chmod(0o444)
    scan.symlink_to(store / "object")
    (store / "old").write_bytes(b"old")
    output = scan.with_name("a_T1w_sr.nii.gz")
    output.symlink_to(store / "old")
    with pytest.raises(PlanError, match="exists"):
        upscale_file(scan, None, request(tiny_model))
    done = upscale_file(scan, None, request(tiny_model), overwrite=True)
    assert sha256(done.files["volume"]) == undisturbed
    assert not output.is_symlink()
    assert (store / "old").read_bytes() == b"old"
    assert names(store) == ["object", "old"]


# --- no home, no network

WATCHED = """
import json, os, sys
seen = []
changes = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1}
def watch(event, arguments):
    if event.startswith(("socket.connect", "socket.send", "socket.getaddrinfo", "socket.gethostby", "urllib.")):
        seen.append(event)  # not socket.bind: an import of pydicom's tries on loopback whether IPv6 is there
    elif event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        seen.append(os.path.dirname(arguments[0]))
    elif event in changes:
        seen.append(os.path.dirname(os.fspath(arguments[changes[event]])))
sys.addaudithook(watch)
from medsr.cli import main
try:
    main(sys.argv[1:])
finally:
    print(json.dumps(seen), file=sys.stderr)
"""


def test_without_home_and_network(scan, tmp_path, tiny_model, child_environment, undisturbed):
    """A home that nobody can make, no network device: the run asks for neither, and writes beside its output alone."""
    alone = ["unshare", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        alone = []  # the watch below still sees every connection that Python makes
    environment = {name: value for name, value in child_environment.items() if not name.startswith("XDG_")}
    environment |= {"HOME": "/proc/nobody", "PYTHONDONTWRITEBYTECODE": "1"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [*alone, sys.executable, "-c", WATCHED, "upscale", str(scan), "--model", str(tiny_model), *OPTIONS],
        env=environment, cwd=elsewhere, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stderr.splitlines()[-1])
    assert str(scan.parent) in seen, "the watch saw the output being made"
    assert [place for place in seen if not place.startswith(str(scan.parent))] == []
    assert names(elsewhere) == []
    assert names(scan.parent) == NAMES
    assert sha256(scan.with_name(NAMES[2])) == undisturbed
