"""``medsr compare``: the metrics of files that are there already, whatever made them; no model, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Literal

from medsr import __version__
from medsr.errors import ConfigError, InputError, JobError, PlanError
from medsr.evaluation.grids import checked_turn, grid_in_words, read_onto
from medsr.evaluation.measure import Reference
from medsr.evaluation.record import METRICS, MethodFacts, Outcome, ProtocolFacts, Study, VolumeFacts, write_study
from medsr.image.files import display_name
from medsr.image.geometry import Geometry
from medsr.image.header import Header
from medsr.image.nifti import Scan, inspect, read_scan
from medsr.image.volume import GivenModality, given_modality
from medsr.outputs import stem

PROTOCOL = "as given"
OF_THE_SCAN = ("spectrum_error", "between_slices_fine")  # what needs to know how coarse the scan was
_SAME = 1e-3  # of a factor: a field of view is rarely a whole number of both voxels

Factors = tuple[float, float, float]


def compare_files(
    predictions: Sequence[Path],
    reference: Path,
    *,
    modality: GivenModality = "auto",
    factor: tuple[float, ...] | None = None,
    coarse: Path | None = None,
    volume: int | None = None,
    created: str,
    command: str,
) -> Study:
    """Every file against the reference, one in memory at a time; a study of one volume, each file a method.

    factor: voxel size of the scan over that of the reference: one for the in-plane axes, or three for i, j, k. coarse:
    the scan itself, of which the grid tells the same. Without either, texture that the scan could not hold is not
    measured. volume: which one of 4-D files. created: ISO 8601; command: for the record.

    A file on another grid is refused, one that stores the same grid's axes in another order is turned. Raises
    ConfigError for factors that make no sense, InputError and PlanError for files.
    """
    header, name = inspect(reference), display_name(reference)
    for path in predictions:
        checked_turn(path, header.geometry, name)  # before voxels are read
    factors = _factors(header, factor, coarse)
    truth = _read_reference(header, modality, volume)
    try:
        against = Reference.of(truth.volume.array, truth.volume.modality, header.slice_axis, factors or (1.0, 1.0, 1.0))
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    names = _names(predictions)
    outcomes = []
    for path, method in zip(predictions, names, strict=True):
        read = read_onto(path, header.geometry, name, truth.volume.modality, volume)
        measured = against.measure(read.array)
        outcomes.append(
            Outcome(
                volume=reference.name,
                protocol=_name(factors),
                method=method,
                metrics=measured.metrics,
                spectrum=measured.spectrum,
                warnings=(*measured.warnings, *read.warnings, *(f"reference: {text}" for text in truth.warnings)),
            )
        )
    return Study(
        title=f"Files compared with {reference.name}",
        created=created,
        command=command,
        split=None,
        versions={"medsr": __version__, "python": python_version(), **{p: version(p) for p in ("numpy", "scipy")}},
        model=None,
        seed=0,
        protocols=(_protocol(factors, header.slice_axis),),
        methods=tuple(MethodFacts(name=m, kind="other", text=p.name) for m, p in zip(names, predictions, strict=True)),
        volumes=(_volume_facts(reference, truth, header),),
        outcomes=tuple(outcomes),
        noise_ceiling={} if against.noise_ceiling is None else {reference.name: against.noise_ceiling},
    )


def compare_command(
    predictions: Sequence[Path],
    reference: Path,
    *,
    modality: GivenModality = "auto",
    factor: tuple[float, ...] | None = None,
    coarse: Path | None = None,
    volume: int | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    as_json: bool = False,
    command: str = "medsr compare",
) -> str:
    """``compare_files``, written to the folder ``output`` if given, and as text (or JSON) for the terminal.

    Raises what that does, PlanError for a folder that holds a study already, JobError where nothing can be written.
    """
    if output is not None and (output / "metrics.json").exists() and not overwrite:
        raise PlanError(f"{output} holds a study already; choose another folder with -o or pass --overwrite")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    study = compare_files(
        predictions,
        reference,
        modality=modality,
        factor=factor,
        coarse=coarse,
        volume=volume,
        created=now,
        command=command,
    )
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JobError(f"cannot make the folder {output}: {error.strerror}; choose another with -o") from error
        write_study(study, output)
    return study.model_dump_json(indent=1) if as_json else in_words(study)


def in_words(study: Study) -> str:
    """The table of a comparison: a row for each metric, a column for each file; then warnings and what is missing."""
    (volume,), (protocol,) = study.volumes, study.protocols
    shown = [m for m in METRICS if any(m in o.metrics for o in study.outcomes)]
    rows = [["", "better", *(o.method for o in study.outcomes)]]
    for metric in shown:
        facts = METRICS[metric]
        unit = "HU" if facts.unit == "units of the scan" and volume.modality == "CT" else facts.unit
        values = [f"{o.metrics[metric]:z.{facts.digits}f}" if metric in o.metrics else "-" for o in study.outcomes]
        aim = {"zero": "0", "one": "1"}.get(facts.better, facts.better)
        rows.append([f"{facts.label}, {unit}" if unit else facts.label, aim, *values])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(_justified(row, widths)).rstrip() for row in rows]
    ceiling = study.noise_ceiling.get(volume.name)
    lines = [
        f"reference: {volume.name}, {volume.modality}, {'x'.join(map(str, volume.shape))} voxels of "
        f"{'x'.join(f'{s:.4g}' for s in volume.spacing)} mm",
        protocol.text,
        "",
        *table,
        "",
        *_warnings(study),
    ]
    if ceiling is not None:
        lines.append(f"noise of the reference: the truth itself would have a PSNR of about {ceiling:.1f} dB (estimate)")
    lines.append("Agreement with one scan is not truth. Research use only, not for diagnosis.")
    return "\n".join(lines)


def _justified(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Words to the left, numbers to the right."""
    words, numbers = zip(row[:2], widths[:2], strict=True), zip(row[2:], widths[2:], strict=True)
    return [*(text.ljust(width) for text, width in words), *(text.rjust(width) for text, width in numbers)]


def _warnings(study: Study) -> list[str]:
    """One line each; what holds for every file, once."""
    shared = set.intersection(*(set(o.warnings) for o in study.outcomes))
    pairs = [("" if text in shared else f"{o.method}: ", text) for o in study.outcomes for text in o.warnings]
    lines = [f"warning: {whose}{text}" for whose, text in pairs]
    return list(dict.fromkeys(lines))


def _read_reference(header: Header, modality: GivenModality, volume: int | None) -> Scan:
    index = volume if header.volumes > 1 else None
    return read_scan(header.path, volume=index, modality=given_modality(modality), header=header)


def _volume_facts(path: Path, scan: Scan, header: Header) -> VolumeFacts:
    geometry = scan.volume.geometry
    return VolumeFacts(
        name=path.name,
        subject=stem(path),
        modality=scan.volume.modality,
        phantom=False,
        shape=geometry.shape,
        spacing=geometry.spacing,
        slice_axis=header.slice_axis,
        sha256=scan.volume.provenance.sha256,
    )


def _factors(header: Header, factor: tuple[float, ...] | None, coarse: Path | None) -> Factors | None:
    """Voxel size of the scan over that of the reference along i, j, k; None where nobody said."""
    if factor is not None and coarse is not None:
        raise ConfigError("--factor and --coarse say the same; give one of them")
    if coarse is not None:
        return _factors_of(coarse, header)
    if factor is None:
        return None
    if len(factor) == 1:
        i, j, k = (1.0 if axis == header.slice_axis else factor[0] for axis in range(3))
    else:
        i, j, k = factor
    if not all(1 <= f < float("inf") for f in (i, j, k)) or max(i, j, k) == 1:
        raise ConfigError(
            f"--factor {'x'.join(f'{f:g}' for f in factor)}: the scan's voxels over the reference's, each at least 1 "
            "and one above it"
        )
    return i, j, k


def _factors_of(coarse: Path, header: Header) -> Factors:
    """The same from the scan's grid."""
    own: Geometry = inspect(coarse).geometry
    try:
        step, _ = header.geometry.index_of(own)
    except ValueError as error:
        raise InputError(
            f"{display_name(coarse)} is turned against the reference {display_name(header.path)}: {grid_in_words(own)} "
            f"against {grid_in_words(header.geometry)}; give its factors with --factor"
        ) from error
    i, j, k = (1.0 if abs(f - 1) < _SAME else float(f) for f in abs(step))
    if min(i, j, k) < 1 or max(i, j, k) == 1:
        raise InputError(
            f"{display_name(coarse)} is not coarser than the reference along every axis that differs (factors "
            f"{i:.3g} x {j:.3g} x {k:.3g}); --coarse is the scan that the files were made from"
        )
    return i, j, k


def _protocol(factors: Factors | None, slice_axis: int) -> ProtocolFacts:
    if factors is None:
        text = (
            "Ready files, compared as they are. How coarse the scan was is not known (--factor, --coarse), so "
            f"the texture beyond it ({'; '.join(METRICS[m].label for m in OF_THE_SCAN)}) is not measured."
        )
        return ProtocolFacts(name=_name(factors), axes="other", factor=1.0, text=text)
    scaled = {axis for axis, f in enumerate(factors) if f > 1}
    axes: Literal["in-plane", "slice", "other"] = "slice" if scaled == {slice_axis} else "in-plane"
    if slice_axis in scaled and len(scaled) > 1:
        axes = "other"
    voxels = " x ".join(f"{f:.4g}" for f in factors)
    text = f"Ready files, compared as they are; the scan's voxels were {voxels} times the reference's."
    return ProtocolFacts(name=_name(factors), axes=axes, factor=max(factors), text=text)


def _name(factors: Factors | None) -> str:
    """Studies of other factors are other protocols."""
    return PROTOCOL if factors is None else f"{PROTOCOL}, {'x'.join(f'{f:.4g}' for f in factors)}"


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for each file: its own without the suffix, with as many folders before it as it takes to be unique."""
    for depth in range(1, 1 + max(len(path.parts) for path in paths)):
        names = ["/".join([*path.parts[-depth:-1], stem(path)]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise ConfigError(f"{display_name(next(p for p in paths if paths.count(p) > 1))} is given twice; once is enough")
