"""BIDS: the scans of a dataset, and the derivative dataset that their results make (BIDS 1.10, "Derivatives")."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from medsr.errors import ConfigError, InputError, PlanError
from medsr.image.files import atomic_write
from medsr.outputs import NOTE, stem
from medsr.service.items import CLOSED, Found, Item, LeftOut, printable
from medsr.service.table import called

DESCRIPTION = "dataset_description.json"
VERSION = "1.10.0"  # of the standard
RAW = "raw"  # what the derivative calls the dataset it was made from
IMAGES = (  # suffixes of images; maps such as T1map, masks and the like are none
    "T1w", "T2w", "PDw", "FLAIR", "T2starw", "T2star", "PDT2", "inplaneT1", "inplaneT2", "angio", "UNIT1",
)  # fmt: skip
_NIFTI = (".nii", ".nii.gz")
_NAME = re.compile(r"sub-[0-9A-Za-z+]+(_[A-Za-z]+-[0-9A-Za-z+]+)*_[0-9A-Za-z]+")  # without .nii.gz
_COMPLEX = re.compile(r"_part-(phase|real|imag)_")  # no magnitudes: half of a complex image
_IGNORED = """\
# What medsr keeps beside the images: the record of the batch, maps and pages that BIDS has no names for.
manifest*.jsonl
summary*.csv
summary*.html
logs/
*_std.nii.gz
*_detail.nii.gz
sub-*/**/*.html
"""

_README = """\
{name}: images made finer by medsr {version}.

{note}

Every image of this dataset was computed from one image of the dataset that "Sources" in its JSON file names, on a finer
grid over the same field of view. Detail that the scan did not transmit was predicted by a network from other scans: it
may be wrong, and small lesions may be smoothed away. The JSON file beside each image holds the plan, the model with its
hash, and the certificate: how far the image, scanned again, would be from the scan.

manifest.jsonl lists every image that was looked at, with hashes of input and output, and why any has no result;
summary.html shows the same on one page.
"""


def find_dataset(inputs: Sequence[Path]) -> Found:
    """The anatomical images of one BIDS dataset, named by BIDS, with outputs that are named by BIDS.

    ``derivatives``, ``sourcedata`` and whatever else is not sub-*/[ses-*/]anat is not looked at. Raises ConfigError
    for more than one input, or one that is no dataset.
    """
    if len(inputs) != 1 or not (inputs[0] / DESCRIPTION).is_file():
        raise ConfigError(f"--bids takes one dataset: a folder that holds {DESCRIPTION}")
    root = inputs[0]
    items: list[Item] = []
    left_out: list[LeftOut] = []
    closed: list[Path] = []
    for path in sorted(_anatomical(root, closed)):
        relative = PurePosixPath(path.relative_to(root).as_posix())
        row = _why_not(relative)
        if row is not None:
            left_out.append(row)
        else:
            items.append(
                Item(printable(relative), path.absolute(), derived_name(relative), notes=_notes(path, relative))
            )
    left_out += [
        LeftOut(printable(path.relative_to(root).as_posix()), CLOSED, InputError.exit_code) for path in sorted(closed)
    ]
    if not items and not left_out:
        reason = f"{printable(called(root))} holds no image in sub-*/anat or sub-*/ses-*/anat"
        left_out.append(LeftOut(printable(called(root)), reason, PlanError.exit_code))
    return Found(tuple(items), tuple(left_out))


def _anatomical(root: Path, closed: list[Path]) -> Iterator[Path]:
    """Every NIfTI file in sub-*/[ses-*/]anat. Folders that may not be read are added to ``closed``."""
    for subject in _below(root, "sub-", closed):
        if not subject.is_dir():
            continue
        for folder in (subject, *_below(subject, "ses-", closed)):
            if folder.is_dir() and (folder / "anat").is_dir():
                yield from (path for path in _below(folder / "anat", "", closed) if path.name.endswith(_NIFTI))


def _below(folder: Path, start: str, closed: list[Path]) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.name.startswith(start) and not path.name.startswith(".")]
    except OSError:
        closed.append(folder)
        return []


def _why_not(relative: PurePosixPath) -> LeftOut | None:
    """Why a file is not upscaled; None when its name says that it is an image."""
    name = stem(Path(relative.name))
    suffix = name.rpartition("_")[2]
    folders = [part for part in relative.parts[:-1] if part != "anat"]
    if not (_NAME.fullmatch(name) and name.startswith("_".join(folders) + "_")):
        expected = f"{'_'.join(folders)}_[...]_T1w.nii.gz"
        reason = f"no name of BIDS (expected {printable(expected)}); rename it, or run the batch without --bids"
        return LeftOut(printable(relative), reason, InputError.exit_code)
    if suffix not in IMAGES:
        return LeftOut(printable(relative), f"BIDS suffix {suffix!r} is none of {', '.join(IMAGES)}")
    if part := _COMPLEX.search(name):
        return LeftOut(printable(relative), f"part-{part[1]} of a complex image; medsr upscales magnitudes")
    return None


def derived_name(relative: PurePosixPath) -> str:
    """``sub-1/anat/sub-1_run-2_T1w.nii`` to ``sub-1/anat/sub-1_run-2_desc-sr_T1w.nii.gz``."""
    entities, _, suffix = stem(Path(relative.name)).rpartition("_")
    parts = [part for part in entities.split("_") if not part.startswith("desc-")]
    before = re.search(r"(?:^|_)desc-([A-Za-z0-9]+)", entities)
    parts.append(f"desc-{before[1] if before else ''}sr")
    return str(relative.with_name(f"{'_'.join(parts)}_{suffix}.nii.gz"))


def _notes(path: Path, relative: PurePosixPath) -> dict[str, Any]:
    """What BIDS wants in the sidecar of a derived image."""
    uri = f"bids:{RAW}:{quote(str(relative), errors='surrogateescape')}"
    return {
        "Description": f"The image made finer by medsr. {NOTE}",
        "Sources": [uri],
        "SpatialReference": uri,  # the same place in space, on a finer grid
        "SkullStripped": bool(_sidecar(path).get("SkullStripped", False)),
    }


def _sidecar(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.with_name(f"{stem(path)}.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


# --- the dataset that is written -------------------------------------------------------------------------------------


def check_derivative(out: Path) -> None:
    """Refuse a folder that is another dataset, above all the raw one. Raises PlanError."""
    path = out / DESCRIPTION
    if not os.path.lexists(path):
        return
    try:
        makers = [entry["Name"] for entry in json.loads(path.read_text(encoding="utf-8"))["GeneratedBy"]]
    except (OSError, ValueError, KeyError, TypeError):
        makers = []
    if "medsr" not in makers:
        raise PlanError(
            f"{printable(called(out))} is another BIDS dataset already; choose a folder of its own with --out, "
            "such as derivatives/medsr"
        )


def write_description(out: Path, root: Path, version: str) -> None:
    """``dataset_description.json``, README and .bidsignore of the derivative of the dataset ``root``."""
    name = _name(root)
    link = Path(os.path.relpath(os.path.realpath(root), os.path.realpath(out))).as_posix()
    description = {
        "Name": f"{name}: made finer by medsr",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "medsr", "Version": version, "Description": NOTE}],
        "SourceDatasets": [{"URL": link}],
        "DatasetLinks": {RAW: link},
    }
    readme = _README.format(name=name, version=version, note=NOTE)
    texts = {DESCRIPTION: json.dumps(description, indent=2) + "\n", "README": readme, ".bidsignore": _IGNORED}
    for file, text in texts.items():
        with atomic_write(out / file, overwrite=True) as stream:
            stream.write(text.encode())


def _name(root: Path) -> str:
    try:
        name = json.loads((root / DESCRIPTION).read_text(encoding="utf-8-sig"))["Name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{DESCRIPTION} of {printable(called(root))} is no JSON with a Name") from error
    return printable(str(name))
