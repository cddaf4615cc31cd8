"""The files that a run writes: their names, and whether they may and can be written."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from medsr.errors import ConfigError, JobError, PlanError
from medsr.image.files import display_name
from medsr.image.header import Header
from medsr.machine import available_disk, gigabytes
from medsr.request import Request

NOTE = "AI SR, not acquired. Research use only, not for diagnosis."  # the first word of every sidecar
# What files of images and records are called: no folder of a series is meant by such a name.
_FILES = (
    ".dcm", ".ima", ".hdr", ".img", ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".mnc", ".zip", ".gz", ".tar",
    ".png", ".jpg", ".tif", ".tiff", ".json", ".html",
)  # fmt: skip
FIXED_DISK = 1_000_000  # bytes: headers and sidecar
REPORT_DISK = 15_000_000  # bytes


def stem(path: Path) -> str:
    """File name without its image suffix: ``scan`` for scan.nii.gz, scan.nii, scan.hdr, scan.mgz."""
    name = path.name
    for suffix in (".nii.gz", ".nii", ".hdr.gz", ".img.gz", ".hdr", ".img", ".mgz", ".mgh", ".zip", ".dcm"):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def is_series(output: Path) -> bool:
    """True when an output is a folder of DICOM files; False for a NIfTI file."""
    return not output.name.lower().endswith((".nii", ".nii.gz"))


def default_output(path: Path, *, series: bool = False) -> Path:
    """``<stem>_sr.nii.gz`` beside the input, or the folder ``<stem>_sr`` for a DICOM series.

    The name of a DICOMDIR, or of ``.``, is that of its folder.
    """
    if path.name == "DICOMDIR" and path.is_file():
        path = path.parent
    if path.name in ("", ".."):
        path = path.resolve()
    return path.with_name(f"{stem(path)}_sr{'' if series else '.nii.gz'}")


def output_files(output: Path, request: Request) -> dict[str, Path]:
    """Every file a run writes: ``volume``, ``sidecar`` and, when asked for, ``std``, ``detail`` and ``report``.

    The volume of a DICOM output is a folder, and its maps are files (Parametric Maps) beside it.
    """
    base = output.name if is_series(output) else stem(output)
    suffix = output.name[len(base) :] or ".dcm"
    files = {"volume": output, "sidecar": output.with_name(f"{base}.json")}
    if request.uncertainty:
        files["std"] = output.with_name(f"{base}_std{suffix}")
    if request.detail_map:
        files["detail"] = output.with_name(f"{base}_detail{suffix}")
    if request.report:
        files["report"] = output.with_name(f"{base}.html")
    return files


def gradient_files(scan: Path, output: Path, request: Request) -> dict[Path, Path]:
    """Diffusion weightings and directions beside a 4-D file, each with the name of its copy beside the output."""
    if request.volume != "all":
        return {}
    pairs = {scan.with_name(stem(scan) + s): output.with_name(stem(output) + s) for s in (".bval", ".bvec")}
    return {source: copy for source, copy in pairs.items() if source.is_file()}


def check_output(header: Header, output: Path, request: Request, output_bytes: int, *, overwrite: bool) -> None:
    """Refuse an output that may not or cannot be written.

    header: of the input. output_bytes: size of one output volume in float32, times the number of volumes. Raises
    ConfigError for options of DICOM that nothing would use, PlanError, or JobError when the folder is read-only.
    """
    folder, scan = output.parent, header.path
    _check_format(header, output, request)
    if not folder.is_dir():
        raise PlanError(f"the folder of the output does not exist: {folder}. Create it first")
    files = output_files(output, request)
    copies = gradient_files(scan, output, request) if header.format != "dicom" else {}
    written = (*files.values(), *copies.values())
    beside = header.format != "dicom" and any(
        folder.resolve() == s.parent.resolve() and stem(output) == stem(s) for s in (scan, scan.resolve())
    )
    if beside or any(path.exists() and path.samefile(scan) for path in written) or _holds(output, scan):
        raise PlanError(
            f"output {display_name(output)} would replace the input or its sidecar; choose another name with -o"
        )
    for path in written:
        if (path.exists() or path.is_symlink()) and not overwrite:
            raise PlanError(f"{display_name(path)} exists; use --overwrite to replace it, or another name with -o")
    if overwrite and is_series(output):
        _check_replaceable(output, files["sidecar"])
    if not os.access(folder, os.W_OK):
        raise JobError(f"cannot write into {folder}: permission denied. Choose another place with -o")
    images = len(files.keys() - {"sidecar", "report"})
    needed = FIXED_DISK + images * output_bytes + ("report" in files) * REPORT_DISK
    free = available_disk(folder)
    if free is not None and needed > free:
        raise PlanError(f"the output needs up to {gigabytes(needed)} of disk and {gigabytes(free)} is free in {folder}")


def _check_format(header: Header, output: Path, request: Request) -> None:
    """DICOM or NIfTI by the name of the output; only for what can become it."""
    dicom, name = header.format == "dicom", display_name(output)
    if dicom and request.dicom_template is not None:
        raise ConfigError("--dicom-template: the input is DICOM itself, and its own tags are used")
    if not is_series(output):
        wanted = {
            "--dicom-template": request.dicom_template is not None,
            "--series-description": request.series_description is not None,
            "--series-number": request.series_number is not None,
            "--burn-in": request.burn_in,
        }
        given = [option for option, there in wanted.items() if there]
        if given:
            raise ConfigError(f"{', '.join(given)}: only for DICOM out, and {name} is NIfTI; name a folder with -o")
        if output.is_dir():
            raise PlanError(f"output {name}: a folder of that name is in the way; choose another name with -o")
    elif not dicom and request.dicom_template is None:
        raise PlanError(
            f"output {name}: give a file that ends in .nii or .nii.gz; for a DICOM series also name the one that the "
            "scan was made from with --dicom-template"
        )
    elif output.name.lower().endswith(_FILES) and not output.is_dir():
        raise PlanError(
            f"output {name}: a DICOM result is a series, one file a slice; name a folder with -o, or a file that "
            "ends in .nii or .nii.gz"
        )


def _holds(output: Path, scan: Path) -> bool:
    """True when the input lies in the folder that is to be written."""
    return is_series(output) and scan.resolve().is_relative_to(output.resolve())


def _check_replaceable(output: Path, sidecar: Path) -> None:
    """A folder is replaced only when it holds nothing but what medsr has written, by its sidecar or by its tags.

    A run that was killed between the names of the folder and of its sidecar leaves the one without the other.
    """
    if not os.path.lexists(output):
        return
    name = display_name(output)
    if output.is_symlink() or not output.is_dir():
        raise PlanError(f"{name} is no folder, and the output is one; choose another name with -o")
    inside = [path.name for path in output.iterdir()]
    if all(re.fullmatch(r"IM\d{6}\.dcm", each) for each in inside):
        if not inside or _vouched_for(output, sidecar, len(inside)):
            return
        from medsr.image.dicom_read import holds_results_only

        if holds_results_only(output):
            return
    raise PlanError(
        f"the folder {name} holds more than a result of medsr, so it is not replaced; choose another name with -o, or "
        "remove it yourself"
    )


def _vouched_for(output: Path, sidecar: Path, files: int) -> bool:
    """True when the JSON file beside a folder says that medsr wrote it, with no fewer files."""
    try:
        record = json.loads(sidecar.read_text(encoding="utf-8"))
        known = record["note"] == NOTE and record["files"]["volume"] == output.name
        return bool(known and files <= int(record["series"]["instances"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False
