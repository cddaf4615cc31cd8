"""What the list of jobs costs at 1,000 and at 1,000,000 scans.

    python benchmarks/jobs.py [--rows 1000000] [--rounds 500] [--folder FOLDER] [--results FOLDER]

The jobs carry the task of a real scan, plan included. --folder is where the store is made (default: the system's
temporary folder; a million jobs take about 4 GB). Writes jobs.md and jobs.json to docs/results/.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from machine import in_words

from medsr.request import Request
from medsr.run import plan_file
from medsr.service import jobs as jobs_module
from medsr.service.jobs import JobStore, NewJob
from medsr.service.tasks import Task

SCAN = Path(__file__).parent.parent / "sample_data"
SMALL = 1000
LEASE_S = 60.0
WORKERS = 4  # beside the one that is measured, each with a job
LIMIT_MS = 1.0  # of the query of a claim


def task() -> dict[str, Any]:
    """As a batch makes it of a real scan."""
    scan = min(SCAN.glob("*.nii.gz"))
    plan = plan_file(scan, None, Request()).plan
    made = Task(Path("/cohort/sub-000001/anat", scan.name), f"anat/{scan.name}", Request(), plan.to_json(), "0" * 64)
    return made.to_json()


def fill(store: JobStore, rows: int, content: dict[str, Any]) -> float:
    """Add jobs in one go; seconds."""

    def new() -> Iterator[NewJob]:
        for number in range(rows):
            yield NewJob(f"{number * 7919 % rows:064x}", f"sub-{number:07d}/anat/scan_T1w.nii.gz", content)

    began = time.perf_counter()
    added = store.add(new(), 0.0)
    if added.new != rows:
        raise RuntimeError(f"{added.new} of {rows} jobs were added")
    return time.perf_counter() - began


def seconds_of(work: Callable[[], Any], rounds: int) -> list[float]:
    """Of each of several calls."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return times


def in_milliseconds(seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    high = statistics.quantiles(seconds, n=100)[98]
    return {"median": round(1000 * statistics.median(seconds), 4), "p99": round(1000 * high, 4)}


def claim_queries(store: JobStore, rounds: int, *, ahead: bool) -> dict[str, float]:
    """The UPDATE ... RETURNING of a claim by itself: begun and committed outside the time that counts."""
    database = store._connection
    next_job = jobs_module._NEXT_AHEAD if ahead else jobs_module._NEXT
    sql = jobs_module._CLAIM.format(next=next_job, columns=jobs_module._COLUMNS)
    times = []
    for number in range(rounds):
        database.execute("BEGIN IMMEDIATE")
        began = time.perf_counter()
        found = database.execute(sql, {"worker": "query", "now": float(number), "lease_until": 1e12}).fetchall()
        times.append(time.perf_counter() - began)
        database.execute("COMMIT")
        if len(found) != 1:
            raise RuntimeError("no job was claimed")
        store.release("query")  # a worker has three jobs at most
    return in_milliseconds(times)


def claims(store: JobStore, rounds: int) -> dict[str, dict[str, float]]:
    """A worker's round, commits included: claim, then finish."""
    claimed, finished = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        job = store.claim("me", 0.0, 1e12)
        between = time.perf_counter()
        if job is None or not store.finish(job, {"residual": 0.1}, 1.0):
            raise RuntimeError("a job was not finished")
        claimed.append(between - began)
        finished.append(time.perf_counter() - between)
    return {"claim": in_milliseconds(claimed), "finish": in_milliseconds(finished)}


def query_plans(store: JobStore) -> dict[str, list[str]]:
    """What SQLite says of how it finds the next job."""
    found = {}
    for name, query in (("claim", jobs_module._NEXT), ("claim ahead", jobs_module._NEXT_AHEAD)):
        steps = store._connection.execute(f"EXPLAIN QUERY PLAN {query}", {"worker": "w"}).fetchall()
        found[name] = [step[3] for step in steps]
    return found


def measure(folder: Path, rows: int, rounds: int, content: dict[str, Any]) -> dict[str, Any]:
    """A store of which half is done, as it is in the middle of a batch."""
    path = folder / f"{rows}.sqlite"
    with JobStore(path, create=True) as store:
        seconds = fill(store, rows, content)
        with sqlite3.connect(path) as connection:
            connection.execute(
                f"UPDATE job SET state = 'done', attempts = 1, outcome = '{{}}', finished = 1 WHERE id <= {rows // 2}"
            )
        connection.close()
        for number in range(WORKERS):
            store.claim(f"w{number}", 0.0, 1e12)
        result = {
            "rows": rows,
            "add_seconds": round(seconds, 2),
            "bytes": path.stat().st_size,
            "query": claim_queries(store, rounds, ahead=False),
            "query_ahead": claim_queries(store, rounds, ahead=True),
            **claims(store, rounds),
            "heartbeat": in_milliseconds(seconds_of(lambda: store.heartbeat("w0", 0.0, 1e12), rounds)),
            "counts": in_milliseconds(seconds_of(store.counts, rounds)),
            "reap": in_milliseconds(seconds_of(lambda: store.reap(1.0), rounds)),
            "plans": query_plans(store),
        }
        if store.counts().total != rows:
            raise RuntimeError("jobs were lost")
    return result


def page(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    sizes = result["sizes"]
    names = {
        "query": "query of a claim, without its commit",
        "query_ahead": "query of a claim ahead, without its commit",
        "claim": "claim (a commit that is not forced to the disk)",
        "heartbeat": "heartbeat (likewise)",
        "finish": "finish (forced to the disk)",
        "counts": "jobs by state",
        "reap": "search for leases that have ended",
    }
    lines = [
        "# The list of jobs",
        "",
        f"Made by `python benchmarks/jobs.py` on {result['machine']}, SQLite {result['sqlite']}. Every job carries the "
        f"plan of a real scan ({result['task_bytes']} bytes of JSON); half of the jobs are done, {WORKERS} other "
        "workers have one each. Milliseconds, median and 99th percentile.",
        "",
        "| | " + " | ".join(f"{size['rows']:,} jobs" for size in sizes) + " |",
        "|---" * (len(sizes) + 1) + "|",
        "| all added in one transaction, s | " + " | ".join(f"{size['add_seconds']:.2f}" for size in sizes) + " |",
        "| size of the file, MB | " + " | ".join(f"{size['bytes'] / 1e6:.0f}" for size in sizes) + " |",
    ]
    for key, name in names.items():
        cells = [f"{size[key]['median']:.3f} ({size[key]['p99']:.3f})" for size in sizes]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    worst = max(size["query"]["median"] for size in sizes)
    verdict = "under" if worst < LIMIT_MS else "NOT under"
    lines += ["", f"The query of a claim is {verdict} {LIMIT_MS:g} ms. How SQLite finds the next job:", "", "```"]
    lines += [f"{name}: {step}" for name, steps in sizes[-1]["plans"].items() for step in steps]
    return "\n".join([*lines, "```", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent.parent / "docs" / "results")
    arguments = parser.parse_args()
    content = task()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        sizes = [measure(Path(name), n, min(arguments.rounds, n // 10), content) for n in (SMALL, arguments.rows)]
    result = {
        "machine": in_words(),
        "sqlite": sqlite3.sqlite_version,
        "task_bytes": len(json.dumps(content)),
        "sizes": sizes,
    }
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "jobs.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (arguments.results / "jobs.md").write_text(page(result), encoding="utf-8")
    print(page(result))


if __name__ == "__main__":
    main()
