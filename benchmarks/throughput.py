"""What a second worker brings: scans a minute of ``medsr batch`` with one worker and with two, a thread each.

    python benchmarks/throughput.py [--scans 16] [--rounds 3] [--shape 128x128x40] [--results FOLDER]

Each run is the command in a process of its own, in turns with one worker and with two. The rate is the sum of the
workers' own, each from its first scan's network to the end of its last scan: neither the start of Python counts, nor
that at the end one of them finds nothing more to do; batches of thousands hide both.
Beside it stands what the machine itself gives: convolutions in one process, and in two at the same time. Adds a row to
docs/results/throughput.json and makes throughput.md of it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from machine import in_words
from worker import make_scans

from medsr.card import read_card
from medsr.service.jobs import JobStore
from medsr.service.place import Place

CONVOLUTIONS = """
import sys, time, torch
torch.set_num_threads(1)
x, w = torch.randn(1, 64, 128, 128), torch.randn(64, 64, 3, 3)
torch.nn.functional.conv2d(x, w, padding=1)
print("ready", flush=True)
sys.stdin.readline()
began = time.perf_counter()
for _ in range(int(sys.argv[1])):
    torch.nn.functional.conv2d(x, w, padding=1)
print(time.perf_counter() - began)
"""
NUMBER = 400  # convolutions of the machine's own measure, some seconds


@dataclass(frozen=True)
class Run:
    """One batch. seconds: of the whole command. rate: scans a second while there was work. busy: share of that time in
    which a worker's network ran, mean over the workers."""

    workers: int
    seconds: float
    rate: float
    busy: float


@dataclass(frozen=True)
class Row:
    """Medians over the rounds; the ratios are the rounds' own. machine_ratio: of convolutions, two processes to one."""

    scans: int
    shape: str
    rounds: int
    one_rate: float
    two_rate: float
    ratio: float
    least_ratio: float
    machine_ratio: float
    one_busy: float
    two_busy: float
    one_seconds: float
    two_seconds: float
    weights: str
    machine: str


def environment() -> dict[str, str]:
    root = str(Path(__file__).parent.parent)
    return os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


def batch(cohort: Path, out: Path, workers: int, model: str) -> Run:
    command = [sys.executable, "-m", "medsr", "batch", str(cohort), "--out", str(out), "--workers", str(workers)]
    command += ["--threads", "1", "--device", "cpu", "--model", model, "--quiet"]
    began = time.perf_counter()
    subprocess.run(command, check=True, env=environment(), stdin=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    spans: dict[str, list[tuple[float, float, float]]] = {}  # by worker: network began, ended, scan done
    with JobStore(Place(out).store) as store:
        for job in store.jobs(["done"]):
            outcome = job.outcome or {}
            spans.setdefault(outcome["worker"], []).append((*outcome["network"], job.finished or 0.0))
    times = [max(done for *_, done in mine) - min(began for began, *_ in mine) for mine in spans.values()]
    networks = [sum(ended - began for began, ended, _ in mine) for mine in spans.values()]
    return Run(
        workers,
        seconds,
        rate=sum(len(mine) / span for mine, span in zip(spans.values(), times, strict=True)),
        busy=statistics.mean(network / span for network, span in zip(networks, times, strict=True)),
    )


def machine_ratio() -> float:
    """How much more two processes convolve than one."""
    return 2 * convolve(1) / convolve(2)


def convolve(processes: int) -> float:
    """Seconds that processes at the same time take for as many convolutions each: the slowest."""
    command = [sys.executable, "-c", CONVOLUTIONS, str(NUMBER)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    for process in running:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise SystemExit("the convolutions did not begin")
    for process in running:
        if process.stdin is not None:
            process.stdin.write("go\n")
            process.stdin.flush()
    return max(float(process.communicate()[0]) for process in running)


def measure(folder: Path, arguments: argparse.Namespace) -> Row:
    shape = tuple(int(n) for n in arguments.shape.split("x"))
    (folder / "in").mkdir()
    make_scans(folder / "in", arguments.scans, (shape[0], shape[1], shape[2]), "nifti")
    pairs, machine = [], []
    for number in range(arguments.rounds):
        machine.append(machine_ratio())
        order = (1, 2) if number % 2 == 0 else (2, 1)
        runs = {n: batch(folder / "in", folder / f"out-{number}-{n}", n, arguments.model) for n in order}
        pairs.append((runs[1], runs[2]))
        print(f"round {number + 1}: {runs[1].rate:.3f} and {runs[2].rate:.3f} scans a second", flush=True)
    ratios = [two.rate / one.rate for one, two in pairs]
    ones, twos = [one for one, _ in pairs], [two for _, two in pairs]
    return Row(
        scans=arguments.scans,
        shape=arguments.shape,
        rounds=arguments.rounds,
        one_rate=statistics.median(run.rate for run in ones),
        two_rate=statistics.median(run.rate for run in twos),
        ratio=statistics.median(ratios),
        least_ratio=min(ratios),
        machine_ratio=statistics.median(machine),
        one_busy=statistics.median(run.busy for run in ones),
        two_busy=statistics.median(run.busy for run in twos),
        one_seconds=statistics.median(run.seconds for run in ones),
        two_seconds=statistics.median(run.seconds for run in twos),
        weights=read_card(arguments.model).sha256[:12],
        machine=in_words(),
    )


def page(rows: list[Row]) -> str:
    """The results in Markdown."""
    columns = (
        "scans", "size", "rounds", "one worker, scans a minute", "two workers", "two to one", "least of the rounds",
        "the machine's own", "busy, one", "busy, two", "whole command, one", "two",
    )  # fmt: skip
    lines = [
        "# A second worker",
        "",
        "Made by `python benchmarks/throughput.py`: `medsr batch` with one worker and with two, one thread each, in "
        "turns. Rates: the sum of the workers' own, each from its first scan's network to the end of its last scan. "
        "The machine's own: how much more two "
        "processes that only convolve do than one, just before each round. Busy: share of the time in which a worker's "
        "network ran, mean over workers. What a worker costs beside a bare loop is in "
        "[A worker beside a bare loop](worker.md).",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    lines += [
        f"| {r.scans} | {r.shape} | {r.rounds} | {60 * r.one_rate:.1f} | {60 * r.two_rate:.1f} | {r.ratio:.2f} | "
        f"{r.least_ratio:.2f} | {r.machine_ratio:.2f} | {100 * r.one_busy:.1f} % | {100 * r.two_busy:.1f} % | "
        f"{r.one_seconds:.1f} s | {r.two_seconds:.1f} s |"
        for r in rows
    ]
    measured = dict.fromkeys(f"Weights `{r.weights}`, on {r.machine}." for r in rows)
    return "\n".join([*lines, "", *measured, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--scans", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", default="128x128x40")
    parser.add_argument("--model", default="medsr-base")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent.parent / "docs" / "results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        row = measure(Path(name), arguments)
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / "throughput.json"
    rows = [Row(**values) for values in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
    rows = [r for r in rows if (r.scans, r.shape, r.machine) != (row.scans, row.shape, row.machine)] + [row]
    path.write_text(json.dumps([asdict(r) for r in rows], indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(page(rows), encoding="utf-8")
    print(page(rows))


if __name__ == "__main__":
    main()
