"""Outside judges of the DICOM that medsr writes. Each looks at a folder of .dcm files and gives its complaints."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.config import RAISE
from pydicom.dataset import Dataset
from pydicom.valuerep import validate_value

from medsr.image.geometry import Geometry
from medsr.image.volume import Volume
from tests.conftest import IN_CI
from tests.image.dicom_phantom import CLASSIC, LPS_TO_RAS, needs_tool, outside_tool

CORNERS_MM = 1e-4  # how far apart two readers may see a corner voxel
UNKNOWN_IN_2022 = "(0008,001c)"  # SyntheticData came into the standard after the tables of this dciodvfy
# Attributes of the standard that classic MR does not list and every vendor writes: a Standard Extended SOP Class.
EXTENSIONS = {
    CLASSIC["MR"]: {
        "RescaleSlope",
        "RescaleIntercept",
        "RescaleType",
        "DiffusionBValue",
        "DiffusionGradientOrientation",
    }
}
TOOLS = ("dciodvfy", "dcentvfy", "gdcminfo", "dcmftest", "dcmdump", "dcm2niix")


def needs_judges(test: Callable[..., Any]) -> Callable[..., Any]:
    """Skip a test where a judge is missing; in CI that is a failure."""
    for name in TOOLS:
        test = needs_tool(name)(test)
    return needs_highdicom(test)


def needs_highdicom(test: Callable[..., Any]) -> Callable[..., Any]:
    """Skip a test where highdicom is missing; in CI that is a failure."""
    try:
        import highdicom  # noqa: F401
    except ImportError:
        if IN_CI:
            raise
        return pytest.mark.skip(reason="no highdicom")(test)
    return test


def complaints(folder: Path, volumes: Sequence[Volume], source: Path | None, work: Path) -> list[str]:
    """Of all judges. volumes: what was to be written; source: folder it was derived from; work: an empty folder."""
    found = [
        *dciodvfy(folder),
        *dcentvfy(folder, source),
        *gdcminfo(folder, volumes[0].geometry),
        *dcmftest(folder),
        *dcmdump(folder),
        *dcm2niix(folder, volumes, work),
        *attributes(folder),
    ]
    return found if len(volumes) > 1 else [*found, *highdicom_volume(folder, volumes[0])]


def files_of(folder: Path) -> list[Path]:
    """The files of a written series, by name, which is slice order."""
    files = sorted(folder.glob("*.dcm"))
    if not files:
        raise FileNotFoundError(f"no .dcm file in {folder}")
    return files


def dciodvfy(folder: Path) -> list[str]:
    """Errors of dicom3tools' check against the object's definition. Its exit status says nothing; its text does."""
    return [
        f"dciodvfy {file.name}: {line}"
        for file in files_of(folder)
        for line in _said("dciodvfy", "-new", file)
        if line.startswith("Error") and UNKNOWN_IN_2022 not in line.lower()
    ]


def dcentvfy(folder: Path, source: Path | None = None) -> list[str]:
    """Entities (patient, study, series, ...) that differ between instances of a series, or from its source.

    What the source says against itself is not counted; nor is an attribute of which the series says nothing, when the
    source says nothing valid.
    """
    old = [] if source is None else sorted(p for p in source.rglob("*") if p.is_file())
    known = set(_said("dcentvfy", *old)) if old else set()
    lines = [line for line in _said("dcentvfy", *old, *files_of(folder)) if line not in known]
    if old:
        one = pydicom.dcmread(old[0], stop_before_pixels=True)
        lines = [line for line in lines if line.startswith("Error") or _has_value(one, line)]
    return [f"dcentvfy: {line}" for line in lines]


def _has_value(ds: Dataset, line: str) -> bool:
    """True when the attribute that a line of dcentvfy names says something valid in a data set."""
    keyword = re.search(r"Element=<(\w+)>", line)
    if keyword is None or keyword[1] not in ds or ds[keyword[1]].is_empty:
        return keyword is None
    element = ds[keyword[1]]
    if element.keyword == "PatientSex":
        return element.value in ("M", "F", "O")
    try:
        validate_value(element.VR, element.value, RAISE)
    except ValueError:
        return False
    return True


def gdcminfo(folder: Path, geometry: Geometry | None = None) -> list[str]:
    """GDCM must read the first and last file and, given the series' geometry, see their slices in their places."""
    files = files_of(folder)
    read = {file: "\n".join(_said("gdcminfo", file)) for file in (files[0], files[-1])}
    found = [f"gdcminfo {file.name}: {text}" for file, text in read.items() if "ScalarType found" not in text]
    if geometry is None or found:
        return found
    place = LPS_TO_RAS @ geometry.affine
    cosines = [place[:3, axis] / geometry.spacing[axis] for axis in (0, 1)]
    for file, k in ((files[0], 0), (files[-1], geometry.shape[2] - 1)):
        expected = {
            "Origin": (place @ [0, 0, k, 1])[:3],
            "Spacing": np.array(geometry.spacing[:2]),
            "DirectionCosines": np.concatenate(cosines),
        }
        for name, value in expected.items():
            numbers = _numbers(read[file], name)[: len(value)]
            # It prints six digits.
            if len(numbers) != len(value) or not np.allclose(numbers, value, rtol=1e-5, atol=1e-5):
                found.append(f"gdcminfo {file.name}: {name} {numbers}, expected {value}")
    return found


def dcmftest(folder: Path) -> list[str]:
    """DCMTK must take every file for DICOM in the format of part 10."""
    return [f"dcmftest: {line}" for line in _said("dcmftest", *files_of(folder)) if not line.startswith("yes: ")]


def dcmdump(folder: Path) -> list[str]:
    """DCMTK must read every element without a remark, such as one on elements out of order."""
    lines = _said("dcmdump", *files_of(folder))
    return [f"dcmdump: {line}" for line in lines if line.startswith(("W: ", "E: ", "F: "))]


def dcm2niix(folder: Path, volumes: Sequence[Volume], work: Path) -> list[str]:
    """One image with our affine and voxels, nothing evened out or slid back. Its exit status says nothing."""
    (work / "out").mkdir(parents=True)
    said = _said("dcm2niix", "-z", "n", "-b", "n", "-p", "n", "-f", "image", "-o", work / "out", folder)
    images = sorted((work / "out").glob("*.nii"))
    if [p.name for p in images] != ["image.nii"]:
        return [f"dcm2niix made {[p.name for p in images]}: {' '.join(said)}"]
    image = nibabel.load(images[0])
    geometry = volumes[0].geometry
    # It takes the distance of slices from two positions in single precision.
    rounding = float(np.spacing(np.float32(np.abs(geometry.affine[:3, 3]).max()))) * geometry.shape[2]
    voxels = on_grid_of(geometry, image, CORNERS_MM + lean(geometry) + rounding)
    if voxels is None:
        return [f"dcm2niix: affine {image.affine.tolist()}, expected {volumes[0].geometry.affine.tolist()}"]
    return _differences("dcm2niix", folder, volumes, voxels)


def highdicom_volume(folder: Path, volume: Volume) -> list[str]:
    """highdicom must read the series as a regular volume with our affine and voxels."""
    from highdicom import get_volume_from_series

    try:
        slices = [pydicom.dcmread(file) for file in files_of(folder)]
        read = get_volume_from_series(slices, apply_presentation_lut=False)
    except Exception as error:  # whatever it raises is its complaint
        return [f"highdicom: {type(error).__name__}: {error}"]
    image = nibabel.Nifti1Image(read.array.astype(np.float64), LPS_TO_RAS @ read.affine)
    voxels = on_grid_of(volume.geometry, image, CORNERS_MM + lean(volume.geometry))
    if voxels is None:
        return [f"highdicom: affine {image.affine.tolist()}, expected {volume.geometry.affine.tolist()}"]
    return _differences("highdicom", folder, [volume], voxels)


def attributes(folder: Path) -> list[str]:
    """Attributes missing, empty or foreign by the standard's tables, which highdicom carries.

    Attributes of types 1 and 2 of mandatory modules, and of the items of any sequence, must be there; what is there of
    type 1 must have a value. An attribute that no module of the object lists is foreign; so is a private one.
    """
    return [f"{file.name}: {line}" for file in files_of(folder) for line in attribute_faults(pydicom.dcmread(file))]


def attribute_faults(ds: Dataset) -> list[str]:
    """``attributes`` of one data set."""
    modules = _modules(ds.SOPClassUID)
    there = _keywords(ds)
    faults = (f for usage, tree in modules for f in _faults(ds, there, tree, "", whole=usage == "M"))
    found = list(dict.fromkeys(faults))
    known = {keyword for _, tree in modules for keyword in tree} | EXTENSIONS.get(ds.SOPClassUID, set())
    found += [f"{element.keyword or element.tag} is foreign" for element in ds if element.keyword not in known]
    return found


def lean(geometry: Geometry) -> float:
    """Mm by which the last slice lies beside the normal through the first; other readers stack slices on the normal.

    Source slices lie that far aside where their places are rounded, and the derived ones follow them.
    """
    i, j, k = geometry.affine[:3, :3].T
    normal = np.cross(i, j) / np.linalg.norm(np.cross(i, j))
    return float(np.linalg.norm(k - normal * (normal @ k))) * (geometry.shape[2] - 1)


def on_grid_of(geometry: Geometry, image: nibabel.Nifti1Image, tolerance: float) -> np.ndarray | None:
    """An image's voxels in the axis order of a geometry, or None when a corner lies farther away than tolerance in mm.

    A fourth axis stays the last.
    """
    relative = np.linalg.inv(geometry.affine) @ image.affine
    order = np.argmax(np.abs(relative[:3, :3]), axis=0)
    if sorted(order) != [0, 1, 2] or tuple(np.array(geometry.shape)[order]) != image.shape[:3]:
        return None
    signs = np.sign(relative[order, range(3)])
    exact = np.zeros((4, 4))
    exact[order, range(3)] = signs
    exact[:3, 3] = [0 if signs[list(order).index(a)] > 0 else geometry.shape[a] - 1 for a in range(3)]
    exact[3, 3] = 1
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape[:3]], [1], indexing="ij")).reshape(4, -1)
    away = ((geometry.affine @ exact - image.affine) @ corners)[:3]
    if np.abs(away).max() > tolerance:
        return None
    voxels = np.asarray(image.dataobj, dtype=np.float32)
    voxels = voxels[tuple(slice(None, None, int(s)) for s in signs)]
    return np.moveaxis(voxels, range(3), order)


def _differences(judge: str, folder: Path, volumes: Sequence[Volume], voxels: np.ndarray) -> list[str]:
    """Half a step of the scale is allowed, since stored values are rounded. voxels: (I, J, K) or (I, J, K, volume)."""
    slope = float(pydicom.dcmread(files_of(folder)[0], stop_before_pixels=True).get("RescaleSlope", 1))
    found = []
    theirs = voxels[..., None] if voxels.ndim == 3 else voxels
    if theirs.shape[3] != len(volumes):
        return [f"{judge}: {theirs.shape[3]} volumes, expected {len(volumes)}"]
    for index, volume in enumerate(volumes):
        away = float(np.abs(theirs[..., index] - volume.array).max())
        if away > slope / 2 + 1e-5 * float(np.abs(volume.array).max()):
            found.append(f"{judge}: voxels of volume {index} differ by up to {away:g}, the step being {slope:g}")
    return found


def _said(command: str, *arguments: str | Path) -> list[str]:
    """Lines on both streams; the exit status of these programs means little."""
    words = [outside_tool(command) or command, *map(str, arguments)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False)
    return [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.strip()]


def _numbers(text: str, name: str) -> np.ndarray:
    line = re.search(rf"^{name}: \(([^)]*)\)", text, re.MULTILINE)
    return np.array([float(n) for n in line[1].split(",")]) if line else np.empty(0)


@cache
def _modules(sop_class: str) -> list[tuple[str, dict[str, Any]]]:
    """Usage (M, C or U) and attributes of each module of an object."""
    from highdicom import _standard_utils as standard

    name = standard.get_sop_class_iod_map()[sop_class]
    return [
        (module["usage"], standard.construct_module_tree(module["key"])["attributes"])
        for module in standard.get_iod_module_map()[name]
    ]


def _faults(ds: Dataset, there: set[str], tree: dict[str, Any], path: str, *, whole: bool) -> Iterator[str]:
    """there: keywords of the data set. whole: what is missing counts too."""
    for keyword, item in tree.items():
        kind = item["type"].value
        if keyword not in there:
            if whole and kind in ("1", "2"):
                yield f"{path}{keyword} of type {kind} is missing"
        elif kind == "1" and ds[keyword].is_empty:
            yield f"{path}{keyword} of type 1 is empty"
        elif "attributes" in item:
            # A functional group is in one of the two sequences of them.
            whole_item = not keyword.endswith("FunctionalGroupsSequence")
            for inner in ds[keyword].value:
                yield from _faults(inner, _keywords(inner), item["attributes"], f"{path}{keyword}.", whole=whole_item)


def _keywords(ds: Dataset) -> set[str]:
    return {element.keyword for element in ds}
