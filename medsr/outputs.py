"""The files that a run writes: their names, and whether they may and can be written."""

from __future__ import annotations

import os
from pathlib import Path

from medsr.errors import JobError, PlanError
from medsr.image.files import display_name
from medsr.machine import available_disk, gigabytes
from medsr.request import Request

FIXED_DISK = 1_000_000  # bytes: headers and sidecar
REPORT_DISK = 15_000_000  # bytes


def stem(path: Path) -> str:
    """File name without its image suffix: ``scan`` for scan.nii.gz, scan.nii, scan.hdr, scan.mgz."""
    name = path.name
    for suffix in (".nii.gz", ".nii", ".hdr.gz", ".img.gz", ".hdr", ".img", ".mgz", ".mgh"):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def default_output(path: Path) -> Path:
    """``<stem>_sr.nii.gz`` beside the input."""
    return path.with_name(f"{stem(path)}_sr.nii.gz")


def output_files(output: Path, request: Request) -> dict[str, Path]:
    """Every file a run writes: ``volume``, ``sidecar`` and, when asked for, ``std``, ``detail`` and ``report``."""
    base = stem(output)
    suffix = output.name[len(base) :]
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


def check_output(scan: Path, output: Path, request: Request, output_bytes: int, *, overwrite: bool) -> None:
    """Refuse an output that may not or cannot be written.

    scan: the input. output_bytes: size of one output volume in float32, times the number of volumes. Raises PlanError,
    or JobError when the folder is read-only.
    """
    folder = output.parent
    if output.is_dir() or not output.name.lower().endswith((".nii", ".nii.gz")):
        raise PlanError(f"output {display_name(output)}: give a file that ends in .nii or .nii.gz")
    if not folder.is_dir():
        raise PlanError(f"the folder of the output does not exist: {folder}. Create it first")
    files = output_files(output, request)
    written = (*files.values(), *gradient_files(scan, output, request).values())
    beside = any(folder.resolve() == s.parent.resolve() and stem(output) == stem(s) for s in (scan, scan.resolve()))
    if beside or any(path.exists() and path.samefile(scan) for path in written):
        raise PlanError(
            f"output {display_name(output)} would replace the input or its sidecar; choose another name with -o"
        )
    if not overwrite:
        for path in written:
            if path.exists() or path.is_symlink():
                raise PlanError(f"{display_name(path)} exists; use --overwrite to replace it, or another name with -o")
    if not os.access(folder, os.W_OK):
        raise JobError(f"cannot write into {folder}: permission denied. Choose another place with -o")
    images = len(files.keys() - {"sidecar", "report"})
    needed = FIXED_DISK + images * output_bytes + ("report" in files) * REPORT_DISK
    free = available_disk(folder)
    if free is not None and needed > free:
        raise PlanError(f"the output needs up to {gigabytes(needed)} of disk and {gigabytes(free)} is free in {folder}")
