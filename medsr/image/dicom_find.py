"""From a path to the series that lie there, and to the one that is meant; headers alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from medsr.errors import InputError
from medsr.image.dicom_files import Source, is_dicom, looks_headless, one_line, sources_in, sources_of_directory
from medsr.image.dicom_frames import WANTED
from medsr.image.dicom_head import Head, read_head
from medsr.image.dicom_kinds import DIRECTORY, is_result
from medsr.image.dicom_series import MAY_BE_SLICE, Series, series_of
from medsr.image.dicom_tags import damage_refused, quiet
from medsr.image.files import display_name

_LISTED = 8  # series in one message
_THREADS = 4  # files are opened side by side: on a network drive most of the time is waiting


def find_series(path: Path) -> list[Series]:
    """The series of a folder (and those below it), a zip, a DICOMDIR or one file, from headers alone.

    Those that are no volume are listed too, with the reason in ``fault`` or ``foreign``. Files that are not DICOM are
    passed over; a DICOM file that is damaged beyond telling its series is a fault of every series in its folder, since
    it may be a slice of it. Raises InputError when there is no DICOM file to be read.
    """
    path = Path(path)
    missing: list[str] = []
    sources = sources_in(path)
    with quiet():
        if len(sources) == 1 and sources[0].path == path and (named := _of_directory(sources[0])) is not None:
            sources, missing = named
        with ThreadPoolExecutor(_THREADS) as pool:
            outcomes = list(pool.map(_head_or_reason, sources))
        heads = [head for head in outcomes if isinstance(head, Head) and head.sop_class != DIRECTORY]
        found = series_of(path, heads)
        absent = _absent([h for h in outcomes if isinstance(h, Head) and h.sop_class == DIRECTORY], heads)
    damaged = [(_folder(s), why) for s, why in zip(sources, outcomes, strict=True) if isinstance(why, str)]
    if not found:
        if damaged:
            more = f" (and {len(damaged) - 1} more files)" if len(damaged) > 1 else ""
            raise InputError(damaged[0][1] + more)
        raise InputError(
            f"{display_name(path)} holds no DICOM file ({len(sources)} files looked at); a folder of NIfTI scans "
            "is for medsr batch"
        )
    return [_marked(series, damaged, missing, absent.get(series.uid, [])) for series in found]


def holds_results_only(folder: Path) -> bool:
    """True for a folder in which every file is DICOM that medsr has written."""
    with quiet():
        heads = [_head_or_reason(source) for source in sources_in(folder)]
    return all(isinstance(head, Head) and is_result(head.tags) for head in heads)


def choose_series(found: Sequence[Series], which: str | int | None = None) -> Series:
    """The series that is meant: ``which`` is a UID, a number, or either with a part (``4/2``); None: the only volume.

    Where there is no volume, but one foreign series, that one, so that it can be refused by what it is. Raises
    InputError with the list when none or several fit.
    """
    if which is not None:
        wanted = str(which).strip()
        fitting = [s for s in found if wanted in (s.label, s.uid, str(s.number), f"{s.uid}/{s.part}")]
        what = f"--series {wanted} fits"
    else:
        fitting = [s for s in found if s.is_volume] or [s for s in found if s.fault is None]
        what = "there are"
    if not fitting and which is None and len(found) == 1:
        fitting = list(found)  # inspecting it says why it is none
    if len(fitting) == 1:
        return fitting[0]
    name = display_name(found[0].path) if found else "nothing"
    shown = fitting or list(found)
    ambiguous = len({s.label for s in shown}) < len(shown)  # several studies number their series alike
    listed = "; ".join(_listed(s) + (f" [UID {one_line(s.uid)}]" if ambiguous else "") for s in shown[:_LISTED])
    more = f"; and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
    if not fitting:
        raise InputError(f"{name}: no series to upscale ({what} none): {listed}{more}")
    raise InputError(f"{name}: {what} {len(fitting)} series; choose one with --series: {listed}{more}")


def _head_or_reason(source: Source) -> Head | str | None:
    """Header of a file; why it cannot be read; None for what is not DICOM."""
    try:
        if not is_dicom(source):
            if not looks_headless(source):
                return None
            return f"{source.name} has no DICOM preamble; if it is DICOM, rewrite it with dcmconv from DCMTK"
        return read_head(source, WANTED)
    except InputError as error:
        return str(error)
    except Exception as error:  # a damaged member of a zip; what the system cannot read
        return f"{source.name} cannot be read ({type(error).__name__})"


def _of_directory(source: Source) -> tuple[list[Source], list[str]] | None:
    """The files that a DICOMDIR names, and warnings; None for any other file."""
    if not is_dicom(source):
        return None
    head = read_head(source, WANTED)
    if head.sop_class != DIRECTORY:
        return None
    with damage_refused(source.name):
        named = [image.file for image in _images_of(head)]
    if not named:
        raise InputError(f"{source.name} names no images; give the folder of the files itself")
    found, missing = sources_of_directory(source.path, named)
    if not found:
        raise InputError(f"{missing[0]}; give the folder of the files itself")
    return found, missing


def _absent(directories: Sequence[Head], heads: Sequence[Head]) -> dict[str, list[str]]:
    """What DICOMDIRs that lie among the files list of each series (by UID) and is not there.

    By instance UID, since copies of a disc often have other file names. An image belongs to the series record before
    it; a DICOMDIR in another order, which the files that are there give away, says nothing.
    """
    series_by_image = {head.tags.text("SOPInstanceUID"): head.tags.text("SeriesInstanceUID") for head in heads}
    absent: dict[str, list[str]] = {}
    for directory in directories:
        try:
            listed = list(_images_of(directory))
        except InputError:
            continue
        if any(series_by_image.get(image.uid, image.series) != image.series for image in listed):
            continue
        for image in listed:
            if image.uid and image.uid not in series_by_image:
                line = f"{one_line('/'.join(image.file))} is listed in {directory.name}, but is not there"
                absent.setdefault(image.series, []).append(line)
    return absent


@dataclass(frozen=True)
class _Image:
    """An image record of a DICOMDIR. series: UID of the series record before it. file: its name, in components."""

    series: str
    uid: str
    file: list[str]


def _images_of(directory: Head) -> Iterator[_Image]:
    """Raises InputError for damaged records."""
    series = ""
    for record in directory.tags.items("DirectoryRecordSequence"):
        kind = record.text("DirectoryRecordType")
        if kind == "SERIES":
            series = record.text("SeriesInstanceUID")
        elif kind == "IMAGE":
            file = record.text("ReferencedFileID").split("\\")
            yield _Image(series, record.text("ReferencedSOPInstanceUIDInFile"), file)


def _folder(source: Source) -> str:
    return source.name.rpartition("/")[0]


def _marked(
    series: Series, damaged: Sequence[tuple[str, str]], missing: Sequence[str], absent: Sequence[str]
) -> Series:
    """A series with a fault where a file that may belong to it, or does, is unreadable or not there."""
    if series.fault is not None:
        return series
    folders = {_folder(head.source) for head in series.heads}
    beside = [why for folder, why in damaged if folder in folders] + list(missing)
    found, advice = (beside, MAY_BE_SLICE) if beside else (absent, "copy it too, or take the DICOMDIR away")
    if not found:
        return series
    more = f" (and {len(found) - 1} more files)" if len(found) > 1 else ""
    return replace(series, fault=f"{found[0]}{more}; {advice}")


def _listed(series: Series) -> str:
    reason = series.fault or series.foreign
    return f"{series} is not: {reason}" if reason else str(series)
