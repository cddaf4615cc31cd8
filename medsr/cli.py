"""The command line: parse, call the library, say what happened. All but click is imported inside the commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from medsr import __version__
from medsr.exits import fail, run, say
from medsr.options import (
    HEADER_OPTIONS,
    MODEL_OPTIONS,
    SAMPLER_OPTIONS,
    SOLVER_OPTIONS,
    AnyPath,
    Brought,
    Commas,
    ListByDefault,
    Numbers,
    ReadablePath,
    request_options,
    with_options,
)

SOME_FAILED = 8


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Super-resolution of MRI and CT volumes. Research use only, not for diagnosis."""


# --- upscale -------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("scan", metavar="IN", type=ReadablePath)
@click.option("-o", "--output", type=AnyPath, help="File, or folder for DICOM; default <stem>_sr.nii.gz or <stem>_sr.")
@request_options
@click.option("--plan", "plan_only", is_flag=True, help="Print what would be done and stop, reading no voxels.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan, or the sidecar, as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Print the traceback of an unexpected error.")
def upscale(  # the boundary to click: the one place for **options
    scan: Path,
    output: Path | None,
    plan_only: bool,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
    verbose: bool,  # noqa: ARG001  read by main()
    **options: Any,
) -> None:
    """Upscale one scan and write a JSON sidecar beside the output.

    IN: a NIfTI or MGH file, or DICOM (a folder, a zip, a DICOMDIR, one file). NIfTI in, NIfTI out; DICOM in, a derived
    DICOM series out, unless -o names a .nii or .nii.gz file.
    """
    _check_sampler_options(click.get_current_context(), options["texture"], uncertainty=options["uncertainty"])
    from medsr.plan import Request

    request = Request(**options)
    if plan_only:
        from medsr.run import plan_file
        from medsr.wording import plan_text

        header, _, plan = plan_file(scan, output, request, overwrite=overwrite)
        say(json.dumps(plan.to_json(), indent=2, default=str) if as_json else plan_text(plan, header))
        return
    from medsr.run import upscale_file
    from medsr.terminal import progress
    from medsr.wording import isotropic_command, summary

    with progress(quiet=quiet) as report:
        done = upscale_file(scan, output, request, report, overwrite=overwrite)
    if as_json:
        say(json.dumps(done.sidecar, indent=2))
    elif not quiet:
        say(summary(done))
    command = isotropic_command(scan, done.header, done.plan)
    if command is not None and not quiet:
        say(f"hint: the slices are coarser than their pixels; to make them finer too: {command}", err=True)


def _check_sampler_options(ctx: click.Context, *textures: float, uncertainty: bool = False) -> None:
    """Refuse textures that do not exist, and options of a sampler that nothing would use."""
    for texture in textures:
        if not 0 <= texture <= 1:
            raise click.UsageError(f"--texture {texture:g} is outside 0 (mean) to 1 (a full sample)")
    if max(textures, default=0.0) > 0 or uncertainty:
        return
    default = click.core.ParameterSource.DEFAULT
    named = [name for name in SAMPLER_OPTIONS if name in ctx.params]
    given = [f"--{name}" for name in named if ctx.get_parameter_source(name) is not default]
    if given:
        also = " or --uncertainty" if "uncertainty" in ctx.params else ""
        raise click.UsageError(f"{', '.join(given)}: only with --texture above 0{also}; the mean needs none")


# --- info, degrade, model ------------------------------------------------------------------------------------------


@cli.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=ReadablePath)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
@click.option("--voxels", is_flag=True, help="Read the voxels too, and measure what was truly acquired (MR).")
@with_options(HEADER_OPTIONS)
@click.option("-v", "--verbose", is_flag=True, help="Print the traceback of an unexpected error.")
def info(
    paths: tuple[Path, ...],
    as_json: bool,
    voxels: bool,
    verbose: bool,  # noqa: ARG001  read by main()
    **options: Any,
) -> int:
    """Say what scans are, from their headers and sidecars alone.

    Of a DICOM folder every series is listed: those that are volumes with their grid, the others with the reason.
    """
    from medsr.errors import MedsrError
    from medsr.wording import entries, entries_text

    found: list[dict[str, Any]] = []
    code = 0
    for path in paths:
        try:
            listed = entries(path, voxels=voxels, **options)
        except MedsrError as error:
            listed, code = [{"file": str(path), "error": str(error)}], error.exit_code
            if not as_json:
                fail(str(error))
                continue
        found += listed
        if not as_json:
            say(entries_text(listed) + "\n")
    if as_json:
        say(json.dumps(found, indent=2))
    return code


@cli.command()
@click.argument("scan", metavar="IN", type=ReadablePath)
@click.option("--protocol", required=True, help="Name of a degradation in configs/protocols.yaml, such as inplane-x2.")
@click.option("-o", "--output", type=AnyPath, required=True, help="File to write (.nii or .nii.gz).")
@click.option("--modality", type=click.Choice(["auto", "mr", "ct"]), default="auto", help="What the scan is.")
@click.option("--volume", type=click.IntRange(0), help="Which volume of a 4-D file, from 0.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("-v", "--verbose", is_flag=True, help="Print the traceback of an unexpected error.")
def degrade(
    scan: Path,
    protocol: str,
    output: Path,
    modality: str,
    volume: int | None,
    overwrite: bool,
    verbose: bool,  # noqa: ARG001  read by main()
) -> None:
    """Make the scan that a coarser scanner would have made, as a named protocol fixes it."""
    from medsr.run import degrade_file
    from medsr.wording import grid, one_line

    coarse = degrade_file(
        scan,
        output,
        protocol,
        modality=None if modality == "auto" else "CT" if modality == "ct" else "MR",
        volume=volume,
        overwrite=overwrite,
    )
    say(f"{one_line(output)}: {grid(coarse.shape, coarse.spacing)}")


@cli.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=ReadablePath)
@click.option("--reference", type=ReadablePath, required=True, help="The volume to compare with, on the same grid.")
@click.option("--modality", type=click.Choice(["auto", "mr", "ct"]), default="auto", help="What the scans are.")
@click.option("--factor", type=Numbers(), help="Voxel size of the scan over the reference's: in plane, or i x j x k.")
@click.option("--coarse", type=ReadablePath, help="The scan that the files were made from, instead of --factor.")
@click.option("--volume", type=click.IntRange(0), help="Which volume of 4-D files, from 0.")
@click.option("-o", "--output", type=AnyPath, help="Folder to write metrics.json and metrics.csv into.")
@click.option("--overwrite", is_flag=True, help="Replace a study in that folder.")
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json.")
@click.option("-v", "--verbose", is_flag=True, help="Print the traceback of an unexpected error.")
def compare(
    files: tuple[Path, ...],
    verbose: bool,  # noqa: ARG001  read by main()
    **options: Any,
) -> None:
    """Measure volumes that are there already against a reference; no model is needed.

    All must lie on one grid: nothing is resampled. Axes that are stored in another order are turned. --factor or
    --coarse says what the scan could not hold, which the measures of texture need to know.
    """
    from medsr.evaluation.compare import compare_command
    from medsr.evaluation.record import command_text

    say(compare_command(files, command=command_text(sys.argv), **options))


@cli.group()
def model() -> None:
    """The models in the package, and weights files."""


@model.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def model_list(as_json: bool) -> None:
    """Name the models in the package."""
    from medsr.card import list_models, read_card

    cards = [read_card(name) for name in list_models()]
    if as_json:
        say(json.dumps([{"name": c.name, "version": c.version, "sha256": c.sha256} for c in cards], indent=2))
    elif cards:
        say("\n".join(f"{c.name:<16} {c.version:<8} {'+'.join(c.modalities):<6} {c.sha256[:12]}" for c in cards))
    else:
        say("no models in the package; give a .safetensors file with --model", err=True)


@model.command("info")
@click.argument("name", metavar="NAME|FILE", default="medsr-base")
def model_info(name: str) -> None:
    """Print a model's card as JSON: data, licences, intended use, limits, measured results."""
    from medsr.card import read_card

    say(json.dumps(read_card(name).model_dump(mode="json"), indent=2))


# --- demo, train ---------------------------------------------------------------------------------------------------


@cli.command()
@click.option(
    "--real",
    type=click.Choice(["mr", "ct"]),
    is_flag=False,
    flag_value="mr",
    help="Instead of the phantom, mr: the MNI152 template of nilearn (pip install 'medsr[demo]'); ct: a DICOM slice "
    "of pydicom.",
)
@click.option("-o", "--output", type=AnyPath, default=Path("demo_output"), show_default=True, help="Folder to write.")
@click.option("--model", "model_name", default="medsr-base", show_default=True, help="Name of a model, or a file.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("-q", "--quiet", is_flag=True, help="Print the result only.")
@click.option("-v", "--verbose", is_flag=True, help="Print the traceback of an unexpected error.")
def demo(
    real: Any,
    output: Path,
    model_name: str,
    device: str,
    quiet: bool,
    verbose: bool,  # noqa: ARG001  read by main()
) -> None:
    """Upscale a phantom, compare it with cubic and linear MMSE, and draw a picture. Nothing is downloaded."""
    from medsr.demo import run_demo
    from medsr.terminal import progress
    from medsr.wording import one_line

    with progress(quiet=quiet) as report:
        outcome = run_demo(output, model=model_name, device=device, progress=report, real=real)
    say(outcome.table())
    say(f"picture: {one_line(outcome.picture)}")


@cli.command()
@click.argument("config", type=ReadablePath)
@click.option("--out", type=AnyPath, help="Folder of the run (default runs/NAME); the same command resumes it.")
@click.option("--init", metavar="WEIGHTS", help="Packaged model or weights file to start from (finetuning).")
@click.option("--max-minutes", type=click.FloatRange(min=0, min_open=True), help="Stop and save after so long.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Check the configuration and the data, print them and stop.")
@click.option("--validate", is_flag=True, help="Train nothing; score the checkpoints in --out on the split val.")
@click.option("-v", "--verbose", is_flag=True, help="Print the traceback of an unexpected error.")
def train(
    config: Path,
    out: Path | None,
    init: str | None,
    max_minutes: float | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    validate: bool,
    verbose: bool,  # noqa: ARG001  read by main()
) -> None:
    """Train or finetune a model as a configuration file says.

    In several processes, one for each GPU: torchrun --nproc-per-node 2 -m medsr train CONFIG.
    """
    if validate and (dry_run or init or max_minutes):
        raise click.UsageError("--validate trains nothing; leave --dry-run, --init and --max-minutes away")
    from medsr.training.command import train_command, validate_command

    if validate:
        validate_command(config, out, overrides, report=say)
    else:
        train_command(config, out, init, max_minutes, overrides, dry_run=dry_run, report=say)


# --- evaluate ------------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--data", type=ReadablePath, required=True, help="Folder of scans, or CSV: file, subject, split.")
@click.option("--protocol", "protocols", type=Commas("NAME[,NAME...]"), required=True, help="Degradations by name.")
@click.option("--out", type=AnyPath, required=True, help="Folder to write metrics, report and cases into.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Default: test, or the only one there is.")
@click.option(
    "--texture",
    "textures",
    type=Commas("T[,T...]", float),
    default="0",
    show_default=True,
    help="Textures of medsr to measure: 0 (mean) to 1 (a full sample).",
)
@click.option(
    "--baselines",
    default="all",
    show_default=True,
    metavar="all|none|NAME[,NAME...]",
    help="Classical methods to compare with.",
)
@click.option("--compare", type=Brought(), multiple=True, help="Volumes of another tool; may be repeated.")
@click.option("--limit", type=click.IntRange(1), help="Stop after so many volumes that take part.")
@click.option("--resume", is_flag=True, help="Go on with the study in --out where it stopped.")
@click.option("--overwrite", is_flag=True, help="Replace the study in --out.")
@click.option("--keep-volumes", is_flag=True, help="Keep every volume, in the form that --compare reads.")
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json.")
@with_options([*SOLVER_OPTIONS, *MODEL_OPTIONS])
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Print the traceback of an unexpected error.")
def evaluate(
    data: Path,
    out: Path,
    baselines: str,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,  # noqa: ARG001  read by main()
    **options: Any,
) -> int:
    """Measure medsr on fine scans: make them coarser, bring them back, compare, and write a report.

    Each volume is degraded as named protocols say, upscaled by the path that a user's scan takes, and compared with
    the original, beside classical methods that are told the same. The study writes metrics.json, metrics.csv and
    report.html. Exit status 8: some volumes could not be read or upscaled; the report says why, the others are done.
    """
    _check_sampler_options(click.get_current_context(), *options["textures"])
    from medsr.evaluation.record import command_text
    from medsr.evaluation.request import StudyRequest, baselines_by_name
    from medsr.evaluation.study import evaluate as run_study
    from medsr.evaluation.study import in_words
    from medsr.terminal import progress

    request = StudyRequest(baselines=baselines_by_name(baselines), **options)
    with progress(quiet=quiet, whole=True) as report:
        done = run_study(
            data, out, request, resume=resume, overwrite=overwrite, command=command_text(sys.argv), progress=report
        )
    if as_json:
        say((out / "metrics.json").read_text(encoding="utf-8"))
    elif not quiet:
        say(in_words(done, out))
    for name in done.failed:
        reason = next(e.reason for e in done.study.excluded if e.volume == name)
        fail(f"{name} was left out: {reason}")
    return SOME_FAILED if done.failed else 0


@cli.command()
@click.argument("studies", metavar="DIR...", nargs=-1, required=True, type=ReadablePath)
@click.option("-o", "--output", type=AnyPath, default=Path("report.html"), show_default=True, help="Page to write.")
@click.option("--overwrite", is_flag=True, help="Replace the page if it exists.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Print the traceback of an unexpected error.")
def report(
    studies: tuple[Path, ...],
    output: Path,
    overwrite: bool,
    quiet: bool,
    verbose: bool,  # noqa: ARG001  read by main()
) -> None:
    """Put a study, or several side by side, on one page.

    DIR: folders that evaluate or compare wrote. Models are matched by protocol and volume; what only some studies
    have is listed, and the change since the last one is shown. Other references under one name are refused.
    """
    from medsr.evaluation.report.page import write_report
    from medsr.wording import one_line

    sentence = write_report(studies, output, overwrite=overwrite)
    if not quiet:
        say(f"{one_line(output)}: {sentence}")


# --- batch, jobs ---------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=AnyPath)
@click.option("--out", type=AnyPath, required=True, help="Folder to write; its tree mirrors the input.")
@click.option("--workers", type=click.IntRange(1), help="Processes (default 1), or with Ray actors (one a GPU).")
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where workers run."
)
@click.option("--address", metavar="HOST:PORT", help="Head node of a Ray cluster; default: that of this computer.")
@click.option("--shard", metavar="I/N", help="Do part I of N; default: the task of a SLURM array, else everything.")
@click.option("--bids", is_flag=True, help="INPUT is a BIDS dataset; write BIDS derivatives.")
@click.option("--fail-fast", is_flag=True, help="End at the first scan that fails.")
@click.option("--retry", "retries", type=click.IntRange(0), default=0, show_default=True, help="Tries after a failure.")
@click.option("--log-names", is_flag=True, help="Name scans in the logs instead of hashes of their names.")
@request_options
@click.option("--plan", "plan_only", is_flag=True, help="Print what would be done and stop; nothing is written.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan, or how it ended, as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that are not this batch's own.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
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
    _check_sampler_options(click.get_current_context(), options["texture"], uncertainty=options["uncertainty"])
    if address is not None and engine != "ray":
        raise click.UsageError("--address: only with --engine ray")
    from medsr.plan import Request
    from medsr.service import batch_text
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
    with progress(quiet=quiet, whole=True) as report:
        if plan_only:
            planning = plan_batch(inputs, request, asked, report)
        elif engine == "ray":
            from medsr.service.cluster import cluster_work

            ended = run_batch(inputs, request, asked, report, work=cluster_work(address, workers))
        else:
            ended = run_batch(inputs, request, asked, report)
    if plan_only:
        say(json.dumps(batch_text.plan_json(planning), indent=2) if as_json else batch_text.plan_table(planning))
        return SOME_FAILED if any(row.exit_code for row in planning.left_out) else 0
    for line in batch_text.trouble_lines(ended):
        fail(line)
    if as_json:
        say(json.dumps(batch_text.ended_json(ended), indent=2))
    elif not quiet:
        say(batch_text.ended_text(ended, out))
    return SOME_FAILED if ended.trouble or ended.waiting else 0


@cli.group(cls=ListByDefault)
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


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its documented code."""
    run(cli, args)
