"""Commands that measure: volumes against a reference, medsr on a set of scans, and studies on one page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from medsr.errors import SOME_FAILED
from medsr.exits import fail, say
from medsr.options import (
    MODEL_OPTIONS,
    NUMBERS,
    SOLVER_OPTIONS,
    AnyPath,
    Brought,
    Commas,
    Numbers,
    ReadablePath,
    check_sampler_options,
    quiet_option,
    verbose_option,
    with_options,
)


@click.command(short_help="Measure ready volumes against a reference.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=ReadablePath)
@click.option("--reference", type=ReadablePath, required=True, help="The volume to compare with, on the same grid.")
@click.option("--modality", type=click.Choice(["auto", "mr", "ct"]), default="auto", help="What the scans are.")
@click.option(
    "--factor",
    metavar=NUMBERS,
    type=Numbers(),
    help="Voxel size of the scan over the reference's: in plane, or i x j x k.",
)
@click.option("--coarse", type=ReadablePath, help="The scan that the files were made from, instead of --factor.")
@click.option("--volume", metavar="N", type=click.IntRange(0), help="Which volume of 4-D files, from 0.")
@click.option("-o", "--output", type=AnyPath, help="Folder to write metrics.json and metrics.csv into.")
@click.option("--overwrite", is_flag=True, help="Replace a study in that folder.")
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json.")
@verbose_option
def compare(files: tuple[Path, ...], **options: Any) -> None:
    """Measure volumes that are there already against a reference; no model is needed.

    All must lie on one grid: nothing is resampled. Axes that are stored in another order are turned. --factor or
    --coarse says what the scan could not hold, which the measures of texture need to know.
    """
    from medsr.evaluation.compare import compare_command
    from medsr.evaluation.record import command_text

    say(compare_command(files, command=command_text(sys.argv), **options))


@click.command(short_help="Measure medsr on fine scans, and write a report.")
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
@click.option("--limit", metavar="N", type=click.IntRange(1), help="Stop after so many volumes that take part.")
@click.option("--resume", is_flag=True, help="Go on with the study in --out where it stopped.")
@click.option("--overwrite", is_flag=True, help="Replace the study in --out.")
@click.option("--keep-volumes", is_flag=True, help="Keep every volume, in the form that --compare reads.")
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json.")
@with_options([*SOLVER_OPTIONS, *MODEL_OPTIONS])
@quiet_option
@verbose_option
def evaluate(
    data: Path,
    out: Path,
    baselines: str,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Measure medsr on fine scans: make them coarser, bring them back, compare, and write a report.

    Each volume is degraded as named protocols say, upscaled by the path that a user's scan takes, and compared with
    the original, beside classical methods that are told the same. The study writes metrics.json, metrics.csv and
    report.html. Exit status 8: some volumes could not be read or upscaled; the report says why, the others are done.
    """
    check_sampler_options(click.get_current_context(), *options["textures"])
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


@click.command()
@click.argument("studies", metavar="DIR...", nargs=-1, required=True, type=ReadablePath)
@click.option("-o", "--output", type=AnyPath, default=Path("report.html"), show_default=True, help="Page to write.")
@click.option("--overwrite", is_flag=True, help="Replace the page if it exists.")
@quiet_option
@verbose_option
def report(studies: tuple[Path, ...], output: Path, overwrite: bool, quiet: bool) -> None:
    """Put a study, or several side by side, on one page.

    DIR: folders that evaluate or compare wrote. Models are matched by protocol and volume; what only some studies
    have is listed, and the change since the last one is shown. Other references under one name are refused.
    """
    from medsr.evaluation.report.page import write_report
    from medsr.wording import one_line

    sentence = write_report(studies, output, overwrite=overwrite)
    if not quiet:
        say(f"{one_line(output)}: {sentence}")
