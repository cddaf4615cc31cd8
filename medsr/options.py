"""What the commands take: kinds of values, and the options that several of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

ReadablePath = click.Path(exists=True, path_type=Path)
AnyPath = click.Path(path_type=Path)
NUMBERS = "F|FxFxF"  # how ``Numbers`` are shown


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.2 on
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


class VolumeChoice(click.ParamType):  # type: ignore[type-arg]
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


class Commas(click.ParamType):  # type: ignore[type-arg]
    """Values with commas between, such as 0,1."""

    def __init__(self, name: str, kind: Callable[[str], Any] = str) -> None:
        self.name, self.kind = name, kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """To a tuple."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.kind(part.strip()) for part in str(value).split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers with commas between, such as 0,1", param, ctx)


class Brought(click.ParamType):  # type: ignore[type-arg]
    """NAME=FOLDER."""

    name = "NAME=FOLDER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        """To a name and a path."""
        name, equals, folder = str(value).partition("=")
        if not (name.strip() and equals and folder):
            self.fail(f"{value!r} is not NAME=FOLDER, such as mytool=results/mytool", param, ctx)
        return name.strip(), Path(folder)


class InOrder(click.Group):
    """A group that lists its commands in the order in which they were added, what is wanted most first."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  as click calls it
        """Names of the commands."""
        return list(self.commands)


class ListByDefault(click.Group):
    """A group whose command ``list`` need not be named: ``jobs DIR`` is ``jobs list DIR``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``list`` in front of what is no command of the group."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["list", *args]
        return super().parse_args(ctx, args)


SOLVER_OPTIONS = [
    click.option(
        "--steps", metavar="N", type=click.IntRange(1), default=8, show_default=True, help="Steps of the sampler."
    ),
    click.option(
        "--sampler",
        type=click.Choice(["dpmpp2m", "heun", "euler", "ancestral"]),
        default="dpmpp2m",
        show_default=True,
        help="How the sampling equation is solved.",
    ),
    click.option(
        "--seed", metavar="N", type=click.IntRange(0), default=0, show_default=True, help="Of the sampler's noise."
    ),
]
MODEL_OPTIONS = [
    click.option("--device", metavar="NAME", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."),
    click.option(
        "--model",
        metavar="NAME|FILE",
        default="medsr-base",
        show_default=True,
        help="Name of a model, or a .safetensors file.",
    ),
    click.option(
        "--threads",
        metavar="N",
        type=click.IntRange(1),
        help="Threads of the CPU; default: all, in a batch shared out among its workers.",
    ),
]
HEADER_OPTIONS = [  # how a header is to be read
    click.option(
        "--prefer",
        type=click.Choice(["sform", "qform"]),
        help="Which affine of a NIfTI header counts where the two disagree.",
    ),
    click.option(
        "--assume-spacing",
        metavar=NUMBERS,
        type=Numbers(),
        help="Voxel spacing in mm for a header without a valid one.",
    ),
    click.option("--series", metavar="UID|N", help="Which DICOM series: number, UID, or a part of it such as 4/2."),
    click.option("--deskew", is_flag=True, help="Slide the slices of a tilted gantry back over each other."),
    click.option("--fill-gaps", is_flag=True, help="Interpolate missing slices."),
]
REQUEST_OPTIONS = [
    click.option(
        "--scale",
        metavar=NUMBERS,
        type=Numbers(),
        help="One factor for the in-plane axes (default 2), or three: i x j x k.",
    ),
    click.option(
        "--spacing", metavar=NUMBERS, type=Numbers(), help="Voxel spacing in mm, one or three; axes already finer stay."
    ),
    click.option("--isotropic", is_flag=True, help="Smallest spacing on every axis, at most 6 times finer."),
    click.option(
        "--texture", metavar="T", type=float, default=0.0, show_default=True, help="0 (mean) to 1 (a full sample)."
    ),
    click.option(
        "--samples", metavar="N", type=click.IntRange(1), default=1, show_default=True, help="Samples to draw."
    ),
    *SOLVER_OPTIONS,
    click.option("--uncertainty", is_flag=True, help="Also write the standard deviation, <output>_std.nii.gz or .dcm."),
    click.option("--detail-map", is_flag=True, help="Also write what was added, <output>_detail.nii.gz or .dcm."),
    click.option("--report", is_flag=True, help="Also write a page about the run, with a viewer, <output>.html."),
    click.option(
        "--profile",
        metavar="auto|KIND:WIDTH",
        default="auto",
        show_default=True,
        help="How a voxel averages: sinc, gauss:1.0, box:1.3; one, or three with commas between.",
    ),
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
    click.option("--volume", metavar="N|all", type=VolumeChoice(), help="Which volume of a 4-D file, from 0, or all."),
    *HEADER_OPTIONS,
    click.option(
        "--dicom-template",
        type=ReadablePath,
        help="DICOM series that a NIfTI scan was made from: the output is a DICOM series of the same study.",
    ),
    click.option("--series-description", help="Of a DICOM output; ends in 'AI SR, not acquired' in any case."),
    click.option("--series-number", metavar="N", type=click.IntRange(1, 2**31 - 1), help="Of a DICOM output."),
    click.option(
        "--keep-private",
        type=click.Choice(["none"]),
        default="none",
        show_default=True,
        help="Private DICOM elements that are copied: none.",
    ),
    click.option("--burn-in", is_flag=True, help="Draw a visible mark into every slice of a DICOM output."),
    *MODEL_OPTIONS,
]
SAMPLER_OPTIONS = ("samples", "steps", "sampler", "seed")


def with_options(options: Sequence[Callable[..., Any]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Several options at once, in their order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


request_options = with_options(REQUEST_OPTIONS)  # those that make up a ``Request``
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
# No command takes it: exits.py looks for it once an error has come.
verbose_option = click.option(
    "-v", "--verbose", is_flag=True, expose_value=False, help="Print the traceback of an unexpected error."
)


def check_sampler_options(ctx: click.Context, *textures: float, uncertainty: bool = False) -> None:
    """Refuse textures that do not exist, and options of a sampler that nothing would use. Raises UsageError."""
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
