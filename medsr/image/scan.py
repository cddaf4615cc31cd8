"""Any scan, whatever its format: what ``inspect`` and ``read`` of the package are, and what commands call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from medsr.errors import ConfigError
from medsr.image import nifti
from medsr.image.dicom_files import is_dicom_path as is_dicom_path
from medsr.image.files import display_name
from medsr.image.header import Header
from medsr.image.nifti import Scan as Scan
from medsr.image.nifti_affine import Prefer
from medsr.image.volume import Modality, Volume


def inspect(
    path: Path,
    *,
    prefer: Prefer | None = None,
    assume_spacing: Sequence[float] | None = None,
    series: str | int | None = None,
    deskew: bool = False,
    fill_gaps: bool = False,
) -> Header:
    """What headers and sidecars say of a scan; no voxels.

    path: a NIfTI or MGH file, or DICOM: a folder, a zip, a DICOMDIR or one file. prefer, assume_spacing: as in
    ``nifti.inspect``. series, deskew, fill_gaps: as in ``dicom_read.inspect``. Raises InputError for what cannot be
    trusted, ConfigError for an option of the other format.
    """
    path = Path(path)
    if not is_dicom_path(path):
        refuse_options(path, "DICOM", {"--series": series, "--deskew": deskew, "--fill-gaps": fill_gaps})
        return nifti.inspect(path, prefer=prefer, assume_spacing=assume_spacing)
    from medsr.image import dicom_read

    refuse_options(path, "NIfTI", {"--prefer": prefer, "--assume-spacing": assume_spacing})
    return dicom_read.inspect(path, series=series, deskew=deskew, fill_gaps=fill_gaps)


def read(
    path: Path,
    *,
    volume: int | None = None,
    modality: Modality | None = None,
    prefer: Prefer | None = None,
    assume_spacing: Sequence[float] | None = None,
    series: str | int | None = None,
    deskew: bool = False,
    fill_gaps: bool = False,
) -> Volume:
    """Read one 3-D volume as (I, J, K) float32, RAS+, in HU or the scan's own units.

    volume: which one of several, from 0. modality: overrides what file and voxels say. The others as in ``inspect``.
    Raises InputError for what is no sound MR or CT volume, PlanError for another kind of image.
    """
    header = inspect(
        path, prefer=prefer, assume_spacing=assume_spacing, series=series, deskew=deskew, fill_gaps=fill_gaps
    )
    return read_scan(header, volume=volume, modality=modality).volume


def read_scan(header: Header, *, volume: int | None = None, modality: Modality | None = None) -> Scan:
    """The volume of an inspected scan with its warnings; as ``read``."""
    if header.format != "dicom":
        return nifti.read_scan(header.path, volume=volume, modality=modality, header=header)
    from medsr.image import dicom_read

    return dicom_read.read_scan(header, volume=volume, modality=modality)


def read_scans(header: Header, *, modality: Modality | None = None) -> Iterator[Scan]:
    """Every volume of an inspected scan in order, one at a time."""
    if header.format != "dicom":
        return nifti.read_scans(header.path, modality=modality, header=header)
    from medsr.image import dicom_read

    return dicom_read.read_scans(header, modality=modality)


def refuse_options(path: Path, format_name: str, options: dict[str, object]) -> None:
    """An option that would do nothing is a misunderstanding, not a wish."""
    given = [name for name, value in options.items() if value is not None and value is not False]
    if given:
        what = "DICOM" if format_name == "NIfTI" else "no DICOM"
        raise ConfigError(f"{', '.join(given)}: only for {format_name}, and {display_name(path)} is {what}")
