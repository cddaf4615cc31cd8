"""Commands for scans: upscale them, say what they are, make them coarser, and a demonstration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import click

from medsr.exits import fail, say
from medsr.options import (
    HEADER_OPTIONS,
    AnyPath,
    ReadablePath,
    check_sampler_options,
    quiet_option,
    request_options,
    verbose_option,
    with_options,
)


@click.command()
@click.argument("scan", metavar="IN", type=ReadablePath)
@click.option("-o", "--output", type=AnyPath, help="File, or folder for DICOM; default <stem>_sr.nii.gz or <stem>_sr.")
@request_options
@click.option("--plan", "plan_only", is_flag=True, help="Print what would be done and stop, reading no voxels.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan, or the sidecar, as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@quiet_option
@verbose_option
def upscale(
    scan: Path,
    output: Path | None,
    plan_only: bool,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
    **options: Any,  # those of a Request; commands are the one place for **options
) -> None:
    """Upscale one scan and write a JSON sidecar beside the output.

    IN: a NIfTI or MGH file, or DICOM (a folder, a zip, a DICOMDIR, one file). NIfTI in, NIfTI out; DICOM in, a derived
    DICOM series out, unless -o names a .nii or .nii.gz file.
    """
    check_sampler_options(click.get_current_context(), options["texture"], uncertainty=options["uncertainty"])
    from medsr.request import Request

    request = Request(**options)
    if plan_only:
        from medsr.run import plan_file
        from medsr.wording import plan_text

        ready = plan_file(scan, output, request, overwrite=overwrite)
        say(json.dumps(ready.plan.to_json(), indent=2, default=str) if as_json else plan_text(ready.plan, ready.header))
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


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=ReadablePath)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
@click.option("--voxels", is_flag=True, help="Read the voxels too, and measure what was truly acquired (MR).")
@with_options(HEADER_OPTIONS)
@verbose_option
def info(paths: tuple[Path, ...], as_json: bool, voxels: bool, **options: Any) -> int:
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


@click.command(short_help="Make the scan of a coarser scanner.")
@click.argument("scan", metavar="IN", type=ReadablePath)
@click.option("--protocol", required=True, help="Name of a degradation in configs/protocols.yaml, such as inplane-x2.")
@click.option("-o", "--output", type=AnyPath, required=True, help="File to write (.nii or .nii.gz).")
@click.option("--modality", type=click.Choice(["auto", "mr", "ct"]), default="auto", help="What the scan is.")
@click.option("--volume", metavar="N", type=click.IntRange(0), help="Which volume of a 4-D file, from 0.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@verbose_option
def degrade(
    scan: Path,
    protocol: str,
    output: Path,
    modality: Literal["auto", "mr", "ct"],
    volume: int | None,
    overwrite: bool,
) -> None:
    """Make the scan that a coarser scanner would have made, as a named protocol fixes it."""
    from medsr.image.volume import given_modality
    from medsr.protocols import degrade_file
    from medsr.wording import grid, one_line

    given = given_modality(modality)
    coarse = degrade_file(scan, output, protocol, modality=given, volume=volume, overwrite=overwrite)
    say(f"{one_line(output)}: {grid(coarse.shape, coarse.spacing)}")


@click.command(short_help="Upscale a phantom, measure it and draw a picture.")
@click.option(
    "--real",
    type=click.Choice(["mr", "ct"]),
    is_flag=False,
    flag_value="mr",
    help="Instead of the phantom, mr: the MNI152 template of nilearn (pip install 'medsr[demo]'); ct: a DICOM slice "
    "of pydicom.",
)
@click.option("-o", "--output", type=AnyPath, default=Path("demo_output"), show_default=True, help="Folder to write.")
@click.option(
    "--model",
    "model_name",
    metavar="NAME|FILE",
    default="medsr-base",
    show_default=True,
    help="Name of a model, or a file.",
)
@click.option("--device", metavar="NAME", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("-q", "--quiet", is_flag=True, help="Print the result only.")
@verbose_option
def demo(real: Literal["mr", "ct"] | None, output: Path, model_name: str, device: str, quiet: bool) -> None:
    """Upscale a phantom, compare it with cubic and linear MMSE, and draw a picture. Nothing is downloaded."""
    from medsr.demo import run_demo
    from medsr.terminal import progress
    from medsr.wording import one_line

    with progress(quiet=quiet) as report:
        outcome = run_demo(output, model=model_name, device=device, progress=report, real=real)
    say(outcome.table())
    say(f"picture: {one_line(outcome.picture)}")
