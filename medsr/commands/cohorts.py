"""Commands for cohorts: upscale all their scans, and say what became of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medsr.errors import SOME_FAILED
from medsr.exits import fail, say
from medsr.options import (
    AnyPath,
    ListByDefault,
    ReadablePath,
    check_sampler_options,
    quiet_option,
    request_options,
)

if TYPE_CHECKING:
    from medsr.service.batch import Ended, Work
    from medsr.service.preview import Preview


@click.command(short_help="Upscale a cohort: folders, DICOM trees, tables, BIDS.")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=AnyPath)
@click.option("--out", type=AnyPath, required=True, help="Folder to write; its tree mirrors the input.")
@click.option(
    "--workers", metavar="N", type=click.IntRange(1), help="Processes (default 1), or with Ray actors (one a GPU)."
)
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where workers run."
)
@click.option("--address", metavar="HOST:PORT", help="Head node of a Ray cluster; default: that of this computer.")
@click.option("--shard", metavar="I/N", help="Do part I of N; default: the task of a SLURM array, else everything.")
@click.option("--bids", is_flag=True, help="INPUT is a BIDS dataset; write BIDS derivatives.")
@click.option("--fail-fast", is_flag=True, help="End at the first scan that fails.")
@click.option(
    "--retry",
    "retries",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Tries after a failure.",
)
@click.option("--log-names", is_flag=True, help="Name scans in the logs instead of hashes of their names.")
@request_options
@click.option("--plan", "plan_only", is_flag=True, help="Print what would be done and stop; nothing is written.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan, or how it ended, as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that are not this batch's own.")
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks of unexpected errors, here and in the logs.")
def batch(
    inputs: tuple[Path, ...],
    out: Path,
    workers: int | None,
    engine: str,
    address: str | None,
    shard: str | None,
    bids: bool,
    fail_fast: bool,
    retries: int,
    log_names: bool,
    plan_only: bool,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> int:
    """Upscale every scan of files, folders, DICOM trees, zips, tables (.csv) or a BIDS dataset.

    Everything is planned first; one bad scan fails one row. The same command again goes on where it stopped. Writes
    manifest.jsonl, summary.csv and summary.html. Exit status 8: some scans failed, the others are done.
    """
    check_sampler_options(click.get_current_context(), options["texture"], uncertainty=options["uncertainty"])
    if address is not None and engine != "ray":
        raise click.UsageError("--address: only with --engine ray")
    from medsr.request import Request
    from medsr.service.batch import BatchRequest, plan_batch, run_batch
    from medsr.service.place import part_of
    from medsr.terminal import progress

    request = Request(**options)
    asked = BatchRequest(
        out,
        workers=workers or 1,
        shard=part_of(shard),
        bids=bids,
        retries=retries,
        fail_fast=fail_fast,
        overwrite=overwrite,
        log_names=log_names,
        verbose=verbose,
    )
    if plan_only:
        with progress(quiet=quiet, whole=True) as report:
            preview = plan_batch(inputs, request, asked, report)
        return _say_planned(preview, as_json=as_json)
    with progress(quiet=quiet, whole=True) as report:
        ended = run_batch(inputs, request, asked, report, work=_work(engine, address, workers))
    return _say_ended(ended, out, as_json=as_json, quiet=quiet)


def _work(engine: str, address: str | None, workers: int | None) -> Work:
    """How the jobs get done: by processes on this computer, or by the actors of a Ray cluster."""
    if engine == "ray":
        from medsr.service.cluster import cluster_work

        return cluster_work(address, workers)
    from medsr.service.crew import run_crew

    return run_crew


def _say_planned(preview: Preview, *, as_json: bool) -> int:
    from medsr.service.batch_text import plan_json, plan_table

    say(json.dumps(plan_json(preview), indent=2) if as_json else plan_table(preview))
    return preview.exit_code


def _say_ended(ended: Ended, out: Path, *, as_json: bool, quiet: bool) -> int:
    from medsr.service.batch_text import ended_json, ended_text, trouble_lines

    for line in trouble_lines(ended):
        fail(line)
    if as_json:
        say(json.dumps(ended_json(ended), indent=2))
    elif not quiet:
        say(ended_text(ended, out))
    return SOME_FAILED if ended.trouble or ended.waiting else 0


@click.group(cls=ListByDefault, short_help="Say what became of the scans of a batch.")
def jobs() -> None:
    """Say what became of the scans of a batch: medsr jobs DIR [--failed] [--json]."""


@jobs.command("list")
@click.argument("folder", metavar="DIR", type=ReadablePath)
@click.option("--failed", is_flag=True, help="Only those that failed, or that were parked since they end the worker.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line, as in the manifest.")
def jobs_list(folder: Path, failed: bool, as_json: bool) -> None:
    """List the scans of the batch in DIR and their states. The word list may be left out."""
    from medsr.service.jobs_text import job_lines, job_rows

    lines = map(json.dumps, job_rows(folder, failed=failed)) if as_json else job_lines(folder, failed=failed)
    for line in lines:
        say(line)


@jobs.command("retry")
@click.argument("folder", metavar="DIR", type=ReadablePath)
def jobs_retry(folder: Path) -> None:
    """Queue again what failed in the batch in DIR; the batch command then does it."""
    from medsr.service.jobs_text import retried_text, retry_jobs

    say(retried_text(retry_jobs(folder)))
