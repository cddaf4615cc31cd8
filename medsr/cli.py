"""The command line: parse, call the library, say what happened. All but click is imported inside the commands."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from medsr import __version__

if TYPE_CHECKING:
    from medsr.image.header import Header
    from medsr.plan import Plan
    from medsr.run import Progress, Upscaled

INTERRUPTED, TERMINATED = 130, 143  # 128 + signal, as a shell reports it
_REPORT = "this is a bug of medsr; please report it with this line, the output of 'medsr --version' and your command"

ReadablePath = click.Path(exists=True, path_type=Path)
AnyPath = click.Path(path_type=Path)


class Numbers(click.ParamType):
    """One number, or three joined by x, such as 2 or 1x1x3.3."""

    name = "F or FxFxF"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """To a tuple of one or three."""
        try:
            numbers = tuple(float(part) for part in str(value).lower().split("x"))
        except ValueError:
            numbers = ()
        if len(numbers) not in (1, 3):
            self.fail(f"{value!r} is neither a number nor three joined by x, such as 2 or 1x1x3.3", param, ctx)
        return numbers


class VolumeChoice(click.ParamType):
    """The number of a volume, or ``all``."""

    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """To an int or "all"."""
        text = str(value).lower()
        if text == "all":
            return "all"
        if not text.isdecimal():
            self.fail(f"{value!r} is neither a number from 0 nor all", param, ctx)
        return int(text)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Super-resolution of MRI and CT volumes. Research use only, not for diagnosis."""


# --- upscale -------------------------------------------------------------------------------------------------------

_REQUEST_OPTIONS = [
    click.option("--scale", type=Numbers(), help="One factor for the in-plane axes (default 2), or three: i x j x k."),
    click.option("--spacing", type=Numbers(), help="Voxel spacing in mm, one or three; axes already finer stay."),
    click.option("--isotropic", is_flag=True, help="Smallest spacing on every axis, at most 6 times finer."),
    click.option("--texture", type=float, default=0.0, show_default=True, help="0 (mean) to 1 (a full sample)."),
    click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="Samples to draw."),
    click.option("--steps", type=click.IntRange(1), default=10, show_default=True, help="Steps of the sampler."),
    click.option(
        "--sampler",
        type=click.Choice(["heun", "euler", "dpmpp2m", "ancestral"]),
        default="heun",
        show_default=True,
        help="How the sampling equation is solved.",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the sampler's noise."),
    click.option("--uncertainty", is_flag=True, help="Also write the standard deviation, <output>_std.nii.gz."),
    click.option("--detail-map", is_flag=True, help="Also write what was added, <output>_detail.nii.gz."),
    click.option("--profile", default="auto", show_default=True, help="auto, or kind:width: sinc, gauss:1.0, box:1.3."),
    click.option(
        "--consistency",
        type=click.Choice(["auto", "hard", "soft", "off"]),
        default="auto",
        show_default=True,
        help="How strictly the result, scanned again, must give the input.",
    ),
    click.option(
        "--from-acquired",
        type=click.Choice(["auto", "off"]),
        default="auto",
        show_default=True,
        help="Undo zero-filling of MR scans first.",
    ),
    click.option(
        "--modality",
        type=click.Choice(["auto", "mr", "ct"]),
        default="auto",
        show_default=True,
        help="What the scan is, where the file does not say.",
    ),
    click.option("--volume", type=VolumeChoice(), help="Which volume of a 4-D file, from 0, or all."),
    click.option("--prefer", type=click.Choice(["sform", "qform"]), help="Which counts where the two disagree."),
    click.option("--assume-spacing", type=Numbers(), help="Voxel spacing in mm for a header without a valid one."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."),
    click.option("--model", default="medsr-base", show_default=True, help="Name of a model, or a .safetensors file."),
    click.option("--threads", type=click.IntRange(1), help="Threads of the CPU; default: all."),
]
_SAMPLER_OPTIONS = ("samples", "steps", "sampler", "seed")


def request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that make up a ``Request``."""
    for option in reversed(_REQUEST_OPTIONS):
        command = option(command)
    return command


@cli.command()
@click.argument("scan", metavar="IN", type=ReadablePath)
@click.option("-o", "--output", type=AnyPath, help="File to write; default <stem>_sr.nii.gz beside the input.")
@request_options
@click.option("--plan", "plan_only", is_flag=True, help="Print what would be done and stop, reading no voxels.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan, or the sidecar, as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Print the traceback of an unexpected error.")
@click.pass_context
def upscale(  # the boundary to click: the one place for **options
    ctx: click.Context,
    scan: Path,
    output: Path | None,
    plan_only: bool,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
    verbose: bool,  # noqa: ARG001  read by main()
    **options: Any,
) -> None:
    """Upscale one scan (.nii, .nii.gz, .hdr/.img, .mgz) and write a JSON sidecar beside the output."""
    _check_sampler_options(ctx, options)
    from medsr.plan import Request

    request = Request(**options)
    if plan_only:
        from medsr.run import plan_file

        header, _, plan = plan_file(scan, output, request, overwrite=overwrite)
        _say(json.dumps(plan.to_json(), indent=2, default=str) if as_json else _plan_text(plan, header))
        return
    from medsr.run import upscale_file

    with _progress(quiet=quiet) as report:
        done = upscale_file(scan, output, request, report, overwrite=overwrite)
    if as_json:
        _say(json.dumps(done.sidecar, indent=2))
    elif not quiet:
        _say(_summary(done))
    if not quiet:
        _hint(scan, done)


def _check_sampler_options(ctx: click.Context, options: dict[str, Any]) -> None:
    if not 0 <= options["texture"] <= 1:
        raise click.UsageError(f"--texture {options['texture']:g} is outside 0 (mean) to 1 (a full sample)")
    if options["texture"] > 0 or options["uncertainty"]:
        return
    default = click.core.ParameterSource.DEFAULT
    given = [f"--{name}" for name in _SAMPLER_OPTIONS if ctx.get_parameter_source(name) is not default]
    if given:
        raise click.UsageError(f"{', '.join(given)}: only with --texture above 0 or --uncertainty; the mean needs none")


def _plan_text(plan: Plan, header: Header) -> str:
    """The plan for people."""
    lines = [
        f"input        {plan.path.name}: {_grid(plan.source.shape, plan.source.spacing)}, "
        f"{plan.modality or 'modality decided at read'} ({header.modality_evidence})"
    ]
    if plan.acquired is not plan.source:
        lines.append(f"acquired     {_grid(plan.acquired.shape, plan.acquired.spacing)}: k-space is cropped back first")
    lines.append(f"output       {_grid(plan.target.shape, plan.target.spacing)}, {plan.output}")
    for number, step in enumerate(plan.passes, start=1):
        planes = " and ".join("ijk"[a] + "ijk"[b] for a, b in step.planes)
        lines.append(f"pass {number}       {_grid(step.target.shape, step.target.spacing)}, slices {planes}")
        for axis, profile in enumerate(step.profiles):
            if profile.kind != "identity":
                lines.append(f"  profile {'ijk'[axis]}  {profile} ({profile.evidence})")
    lines.append(f"consistency  {plan.consistency}")
    lines.append(f"model        {plan.model} {plan.model_sha256[:12]}")
    lines.append(f"estimate     {_duration(plan.seconds)} on two CPU cores, {plan.memory_bytes / 1e9:.1f} GB of memory")
    lines += [f"warning      {text}" for text in plan.warnings]
    if (command := _isotropic_command(plan.path, header, plan)) is not None:
        lines.append(f"hint         {command}")
    return "\n".join(lines)


def _grid(shape: Sequence[int], spacing: Sequence[float]) -> str:
    return f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{s:.4g}' for s in spacing)} mm"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def _summary(done: Upscaled) -> str:
    plan, result = done.plan, done.result
    seconds = sum(done.sidecar["timings"].values())
    lines = [f"warning: {text}" for text in done.sidecar["warnings"]]
    lines.append(f"{done.files['volume']}: {_grid(plan.target.shape, plan.target.spacing)}, in {seconds:.1f} s")
    certificate = result.certificate
    unit = "" if certificate.residual_hu is None else f", {certificate.residual_hu:.2g} HU"
    known = "" if certificate.known else ", profile assumed"
    lines.append(
        f"certificate: {certificate.residual:.2g} of the scan's standard deviation{unit} "
        f"({certificate.consistency} consistency{known})"
    )
    return "\n".join(lines)


def _hint(scan: Path, done: Upscaled) -> None:
    from medsr.image.nifti import inspect

    request = done.plan.request
    header = inspect(scan, prefer=request.prefer, assume_spacing=request.assume_spacing)
    if (command := _isotropic_command(scan, header, done.plan)) is not None:
        _say(f"hint: the slices are coarser than their pixels; to make them finer too: {command}", err=True)


def _isotropic_command(scan: Path, header: Header, plan: Plan) -> str | None:
    """The command that also refines thick slices, None where it would not help."""
    from medsr.image.profile import is_thick_slice
    from medsr.outputs import stem

    if (
        not is_thick_slice(header)
        or plan.factors[header.slice_axis] > 1.01
        or header.geometry.shape[header.slice_axis] < 2
    ):
        return None
    output = scan.with_name(f"{stem(scan)}_iso.nii.gz")
    return f"medsr upscale {shlex.quote(str(scan))} --isotropic -o {shlex.quote(str(output))}"


# --- info, degrade, model ------------------------------------------------------------------------------------------


@cli.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=ReadablePath)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
@click.option("--voxels", is_flag=True, help="Read the voxels too, and measure what was truly acquired (MR).")
@click.option("--prefer", type=click.Choice(["sform", "qform"]), help="Which counts where the two disagree.")
@click.option("--assume-spacing", type=Numbers(), help="Voxel spacing in mm for a header without a valid one.")
@click.option("-v", "--verbose", is_flag=True, help="Print the traceback of an unexpected error.")
def info(
    paths: tuple[Path, ...],
    as_json: bool,
    voxels: bool,
    prefer: Any,
    assume_spacing: Any,
    verbose: bool,  # noqa: ARG001  read by main()
) -> None:
    """Say what scans are, from their headers and sidecars alone."""
    from medsr.errors import MedsrError
    from medsr.image.nifti import inspect

    found: list[dict[str, Any]] = []
    code = 0
    for path in paths:
        try:
            header = inspect(path, prefer=prefer, assume_spacing=assume_spacing)
            facts = _facts(header, voxels=voxels)
        except MedsrError as error:
            facts, code = {"file": str(path), "error": str(error)}, error.exit_code
            if not as_json:
                _fail(str(error))
                continue
        found.append(facts)
        if not as_json:
            _say("\n".join(f"{name:<16} {_plain(value)}" for name, value in facts.items() if value is not None) + "\n")
    if as_json:
        _say(json.dumps(found, indent=2))
    if code:
        raise SystemExit(code)


def _facts(header: Header, *, voxels: bool) -> dict[str, Any]:
    """What is known of a scan, as JSON values."""
    geometry = header.geometry
    facts: dict[str, Any] = {
        "file": str(header.path),
        "format": header.format,
        "shape": list(geometry.shape),
        "volumes": header.volumes,
        "spacing_mm": [round(s, 6) for s in geometry.spacing],
        "field_of_view_mm": [round(s, 4) for s in geometry.field_of_view],
        "axes": geometry.axis_codes,
        "dtype": header.dtype,
        "modality": header.modality or "decided at read",
        "evidence": header.modality_evidence,
        "not_an_image": header.foreign,
        "slice_axis": "ijk"[header.slice_axis],
        "slice_thickness_mm": header.slice_thickness,
        "acquisition": header.acquisition_type,
        "acquired": list(header.acquired) if any(header.acquired) else None,
        "affine": [[float(v) for v in row] for row in geometry.affine],
        "warnings": list(header.warnings),
    }
    if voxels:
        from medsr.image.acquired import acquired_matrix
        from medsr.image.nifti import read

        volume = read(header.path, volume=0 if header.volumes > 1 else None, header=header)
        facts["modality"] = volume.modality
        if volume.modality == "MR":
            facts["acquired_by_spectrum"] = list(acquired_matrix(volume.array))
    return facts


def _plain(value: Any) -> str:
    if isinstance(value, list):
        if value and isinstance(value[0], list):
            return "; ".join(" ".join(f"{v:.6g}" for v in row) for row in value)
        return " x ".join("?" if v is None else str(v) for v in value) if value else "none"
    return str(value)


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

    grid = degrade_file(
        scan,
        output,
        protocol,
        modality=None if modality == "auto" else "CT" if modality == "ct" else "MR",
        volume=volume,
        overwrite=overwrite,
    )
    _say(f"{output}: {_grid(grid.shape, grid.spacing)}")


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
        _say(json.dumps([{"name": c.name, "version": c.version, "sha256": c.sha256} for c in cards], indent=2))
    elif cards:
        _say("\n".join(f"{c.name:<16} {c.version:<8} {'+'.join(c.modalities):<6} {c.sha256[:12]}" for c in cards))
    else:
        _say("no models in the package; give a .safetensors file with --model", err=True)


@model.command("info")
@click.argument("name", metavar="NAME|FILE", default="medsr-base")
def model_info(name: str) -> None:
    """Print a model's card as JSON: data, licences, intended use, limits, measured results."""
    from medsr.card import read_card

    _say(json.dumps(read_card(name).model_dump(mode="json"), indent=2))


# --- demo, train ---------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--real", is_flag=True, help="Use the MNI152 template that nilearn carries (pip install 'medsr[demo]').")
@click.option("-o", "--output", type=AnyPath, default=Path("demo_output"), show_default=True, help="Folder to write.")
@click.option("--model", "model_name", default="medsr-base", show_default=True, help="Name of a model, or a file.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("-q", "--quiet", is_flag=True, help="Print the result only.")
@click.option("-v", "--verbose", is_flag=True, help="Print the traceback of an unexpected error.")
def demo(
    real: bool,
    output: Path,
    model_name: str,
    device: str,
    quiet: bool,
    verbose: bool,  # noqa: ARG001  read by main()
) -> None:
    """Upscale a phantom, compare it with cubic and linear MMSE, and draw a picture. Nothing is downloaded."""
    from medsr.demo import run_demo

    with _progress(quiet=quiet) as report:
        outcome = run_demo(output, model=model_name, device=device, progress=report, real=real)
    _say(outcome.table())
    _say(f"picture: {outcome.picture}")


@cli.command()
@click.argument("config", type=ReadablePath)
@click.option("--out", type=AnyPath, help="Folder of the run; the same command resumes it.")
@click.option("--init", metavar="WEIGHTS", help="Packaged model or weights file to start from (finetuning).")
@click.option("--max-minutes", type=click.FloatRange(min=0, min_open=True), help="Stop and save after so long.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Check the configuration and the data, print them and stop.")
@click.option("-v", "--verbose", is_flag=True, help="Print the traceback of an unexpected error.")
def train(
    config: Path,
    out: Path | None,
    init: str | None,
    max_minutes: float | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    verbose: bool,  # noqa: ARG001  read by main()
) -> None:
    """Train or finetune a model as a configuration file says."""
    from medsr.training.command import train_command

    train_command(config, out, init, max_minutes, overrides, dry_run=dry_run, report=_say)


# --- what a terminal sees ------------------------------------------------------------------------------------------


def _printable(text: str) -> str:
    """Control characters and bytes that are no text, escaped, so that no file name can forge output."""
    return "".join(c if c.isprintable() or c in "\n" else ascii(c)[1:-1] for c in text)


def _say(text: str, *, err: bool = False) -> None:
    click.echo(_printable(text), err=err)


def _fail(text: str) -> None:
    _say(f"medsr: error: {' '.join(text.splitlines())}", err=True)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress | None]:
    """A bar with the time left on a terminal, plain lines elsewhere, both on stderr."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _plain_lines()


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=1.0)
        current = ""

        def report(stage: str, share: float) -> None:
            nonlocal current
            if stage != current:
                current = stage
                progress.reset(task, description=_printable(stage), total=1.0)
            progress.update(task, completed=share)

        yield report


def _plain_lines() -> Progress:
    """One line at the start of each stage, and then every quarter of it that took longer than five seconds."""
    current, quarter, last = "", 0, 0.0

    def report(stage: str, share: float) -> None:
        nonlocal current, quarter, last
        now = time.monotonic()
        if stage != current:
            current, quarter, last = stage, 0, now
            _say(stage, err=True)
        elif int(4 * share) > quarter and now - last > 5:
            quarter, last = int(4 * share), now
            _say(f"{stage} {share:.0%}", err=True)

    return report


# --- the way in and out --------------------------------------------------------------------------------------------


class _Terminated(BaseException):
    """SIGTERM, as an exception: unfinished files are removed on the way out."""


def _terminate(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001  as signal.signal wants it
    raise _Terminated


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with the code of cli.md."""
    signal.signal(signal.SIGTERM, _terminate)
    arguments = list(sys.argv[1:] if args is None else args)
    sys.exit(_run(arguments))


def _run(arguments: list[str]) -> int:
    from medsr.errors import MedsrError

    try:
        value = cli.main(arguments, prog_name="medsr", standalone_mode=False)
        sys.stdout.flush()
        return value if isinstance(value, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        _fail(error.format_message())
        if isinstance(error, click.UsageError) and error.ctx is not None:
            _say(f"try '{error.ctx.command_path} --help'", err=True)
        return error.exit_code
    except MedsrError as error:
        _fail(str(error))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted; no output was written")
        return INTERRUPTED
    except _Terminated:
        _fail("terminated; no output was written")
        return TERMINATED
    except MemoryError:
        _fail("out of memory; ask for a smaller --scale or crop the scan")
        return 6
    except BrokenPipeError:  # the reader of our output has gone, as with | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        _fail(f"unexpected {type(error).__name__}: {error}")
        _say(_REPORT, err=True)
        if any(a in ("-v", "--verbose") for a in arguments):
            import traceback

            traceback.print_exc()
        return 1
