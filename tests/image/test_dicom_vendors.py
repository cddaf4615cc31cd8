"""Series as scanners of the large vendors write them: several images of one place, told apart by what each states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, ImplicitVRLittleEndian

from medsr.errors import InputError
from medsr.image.dicom_read import find_series, inspect, inspect_series, read, read_scans
from medsr.image.header import Header
from medsr.image.volume import Modality
from tests.image.dicom_crude import write_crude
from tests.image.dicom_phantom import Phantom, save

Change = Callable[[Dataset, int, int], object]  # data set or functional groups, number of the volume, of the slice


def phantoms(count: int, modality: str = "MR") -> list[Phantom]:
    return [Phantom(modality, stored=np.random.default_rng(n).integers(24, 1200, (5, 6, 4))) for n in range(count)]


def classic(parts: list[Phantom], change: Change) -> list[Dataset]:
    """One series of volumes in the same places; numbers run from volume to volume, files lie in another order."""
    found = []
    for v, phantom in enumerate(parts):
        for k, ds in enumerate(phantom.classic()):
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(phantom.uid(6, v, k + 1))
            ds.InstanceNumber = v * 4 + k + 1
            change(ds, v, k)
            found.append(ds)
    return [found[n] for n in np.random.default_rng(0).permutation(len(found))]


def enhanced(parts: list[Phantom], change: Change, dimensions: tuple[str, ...] = ()) -> Dataset:
    """The same in one file, volume after volume."""
    ds, *others = (phantom.enhanced() for phantom in parts)
    groups = [g for one in (ds, *others) for g in one.PerFrameFunctionalGroupsSequence]
    for number, item in enumerate(groups):
        change(item, number // 4, number % 4)
    ds.PerFrameFunctionalGroupsSequence, ds.NumberOfFrames = groups, len(groups)
    ds.PixelData = b"".join(one.PixelData for one in (ds, *others))
    ds.DimensionIndexSequence = [Dataset() for _ in dimensions]
    for item, keyword in zip(ds.DimensionIndexSequence, dimensions, strict=True):
        item.DimensionIndexPointer = Tag(keyword)
    return ds


def private(ds: Dataset, group: int, creator: str, element: int, vr: str, value: object) -> None:
    ds.private_block(group, creator, create=True).add_new(element, vr, value)


def holds(header: Header, parts: list[Phantom], *told: str) -> None:
    """The header's volumes are those of the phantoms, in their order."""
    assert header.extra.series.told_by == told
    scans = list(read_scans(header))
    assert len(scans) == len(parts)
    for scan, phantom in zip(scans, parts, strict=True):
        np.testing.assert_array_equal(scan.volume.array, phantom.values)
        np.testing.assert_allclose(scan.volume.geometry.affine, phantom.affine, atol=1e-6)


def comes_back(tmp_path: Path, header: Header, *told: str) -> list[Dataset]:
    """Written as a derived series and read again, all volumes are there; the first file of each is returned."""
    crude = write_crude(tmp_path / "out", header)
    again = inspect(crude.folder)
    assert again.extra.series.told_by == told
    for scan, volume in zip(read_scans(again, modality=volume_modality(header)), crude.volumes, strict=True):
        np.testing.assert_allclose(scan.volume.array, volume.array, atol=0.51)
    return [dcmread(file) for file in crude.written.files[:: again.geometry.shape[2]]]


def volume_modality(header: Header) -> Modality:
    assert header.modality is not None
    return header.modality


DIRECTIONS = ((0.0, 0.0, 0.0), (0.6, 0.8, 0.0), (-0.6, 0.0, 0.8), (0.0, 1.0, 0.0))


class TestDiffusion:
    """A b-value of 0, and three directions at 1000, in one series."""

    def test_standard_tags(self, tmp_path: Path) -> None:
        def change(ds: Dataset, v: int, _: int) -> None:
            ds.DiffusionBValue, ds.DiffusionGradientOrientation = 1000.0 * (v > 0), list(DIRECTIONS[v])

        parts = phantoms(4)
        holds(inspect(save(tmp_path, classic(parts, change))), parts, "b-value", "direction")

    def test_philips(self, tmp_path: Path) -> None:
        """Numbers run from slice to slice."""

        def change(ds: Dataset, v: int, k: int) -> None:
            ds.InstanceNumber = k * 4 + v + 1
            private(ds, 0x2001, "Philips Imaging DD 001", 0x03, "FL", 1000.0 * (v > 0))
            for axis in range(3):
                private(ds, 0x2005, "Philips MR Imaging DD 001", 0xB0 + axis, "FL", DIRECTIONS[v][axis])

        parts = phantoms(4)
        holds(inspect(save(tmp_path, classic(parts, change))), parts, "b-value", "direction")

    def test_a_b_value_of_0_in_every_scan_says_nothing(self, tmp_path: Path) -> None:
        """Philips states it in scans of any kind."""

        def change(ds: Dataset, v: int, _: int) -> None:
            ds.EchoTime = 10.0 + v
            private(ds, 0x2001, "Philips Imaging DD 001", 0x03, "FL", 0.0)

        header = inspect(save(tmp_path / "in", classic(phantoms(2), change)))
        assert all("DiffusionBValue" not in ds for ds in comes_back(tmp_path, header, "echo"))

    def test_ge(self, tmp_path: Path) -> None:
        """GE adds 1e9 to b-values where a scan has several."""

        def change(ds: Dataset, v: int, _: int) -> None:
            private(ds, 0x0043, "GEMS_PARM_01", 0x39, "IS", [1_000_000_000 + 1000 * (v > 0), 8, 0, 0])
            for axis in range(3):
                private(ds, 0x0019, "GEMS_ACQU_01", 0xBB + axis, "DS", DIRECTIONS[v][axis])

        parts = phantoms(4)
        header = inspect(save(tmp_path / "in", classic(parts, change)))
        holds(header, parts, "b-value", "direction")
        out = comes_back(tmp_path, header, "b-value", "instance number")
        assert [ds.DiffusionBValue for ds in out] == [0, 1000, 1000, 1000], "it was in a private tag alone"

    def test_united_imaging(self, tmp_path: Path) -> None:
        def change(ds: Dataset, v: int, _: int) -> None:
            private(ds, 0x0065, "Image Private Header", 0x09, "FD", 1000.0 * (v > 0))
            private(ds, 0x0065, "Image Private Header", 0x37, "FD", list(DIRECTIONS[v]))

        parts = phantoms(4)
        holds(inspect(save(tmp_path, classic(parts, change))), parts, "b-value", "direction")

    def test_enhanced(self, tmp_path: Path) -> None:
        def change(groups: Dataset, v: int, _: int) -> None:
            diffusion, gradient = Dataset(), Dataset()
            diffusion.DiffusionBValue = 1000.0 * (v > 0)
            if v:
                gradient.DiffusionGradientOrientation = list(DIRECTIONS[v])
                diffusion.DiffusionGradientDirectionSequence = [gradient]
            groups.MRDiffusionSequence = [diffusion]

        parts = phantoms(4)
        header = inspect(save(tmp_path / "in", [enhanced(parts, change)]))
        holds(header, parts, "b-value", "direction")
        out = comes_back(tmp_path, header, "b-value", "direction")
        assert [tuple(ds.DiffusionGradientOrientation) for ds in out[1:]] == list(DIRECTIONS[1:])


@pytest.mark.parametrize(
    ("modality", "keyword", "values", "told"),
    [
        ("MR", "FlipAngle", [5.0, 20.0], "flip angle"),
        ("CT", "KVP", [80, 140], "tube voltage"),
        ("CT", "ConvolutionKernel", ["B70f", "B30f"], "kernel"),
    ],
)
def test_settings_that_differ(tmp_path: Path, modality: str, keyword: str, values: list[object], told: str) -> None:
    parts = phantoms(2, modality)
    slices = classic(parts, lambda ds, v, _: setattr(ds, keyword, values[v]))
    holds(inspect(save(tmp_path, slices)), parts, told)


@pytest.mark.parametrize("place_by_place", [False, True])
def test_numbers_alone(tmp_path: Path, place_by_place: bool) -> None:
    """Coils, phases of a dynamic scan: nothing but the instance number differs. It is believed, with a warning."""

    def change(ds: Dataset, v: int, k: int) -> None:
        ds.InstanceNumber = k * 3 + v + 1 if place_by_place else v * 4 + k + 1

    parts = phantoms(3)
    header = inspect(save(tmp_path, classic(parts, change)))
    holds(header, parts, "instance number")
    assert any("by nothing but the order of their instance numbers" in w for w in header.warnings)


def test_what_only_numbers_tell_comes_back(tmp_path: Path) -> None:
    """The fourth value of ImageType is not written, and the numbers run on from volume to volume."""

    def change(ds: Dataset, v: int, _: int) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER", ("WATER", "FAT", "IN_PHASE")[v]]

    parts = phantoms(3)
    header = inspect(save(tmp_path / "in", classic(parts, change)))
    holds(header, parts, "image type")
    comes_back(tmp_path, header, "instance number")


@pytest.mark.parametrize(("options", "told"), [("", "time point"), ("CG", "trigger time")])
def test_trigger_time_without_a_trigger(tmp_path: Path, options: str, told: str) -> None:
    """The time within a dynamic scan is no trigger time in a derived image; that of a gated one is."""

    def change(ds: Dataset, v: int, _: int) -> None:
        ds.TriggerTime, ds.ScanOptions = v * 30000.0, options

    parts = phantoms(3)
    header = inspect(save(tmp_path / "in", classic(parts, change)))
    holds(header, parts, "trigger time")
    out = comes_back(tmp_path, header, told)
    assert [ds.get("TemporalPositionIdentifier") for ds in out] == ([1, 2, 3] if not options else [None] * 3)
    assert [ds.get("TriggerTime") for ds in out] == ([None] * 3 if not options else [0, 30000, 60000])


def test_numbers_in_no_order(tmp_path: Path) -> None:
    """Numbers neither from volume to volume nor from place to place say nothing: the images stay ambiguous."""
    shuffled = np.random.default_rng(5).permutation(12) + 1

    def change(ds: Dataset, v: int, k: int) -> None:
        ds.InstanceNumber = int(shuffled[v * 4 + k])

    header = inspect(save(tmp_path, classic(phantoms(3), change)))
    assert header.volumes == 1
    assert any("8 slices are there twice" in w for w in header.warnings)


def test_dimensions_of_an_enhanced_file(tmp_path: Path) -> None:
    """Time points that only the dimension index tells; its values for stack and position are not looked at."""

    def change(groups: Dataset, v: int, k: int) -> None:
        groups.FrameContentSequence[0].DimensionIndexValues = [1, k + 1, v + 1]

    parts = phantoms(3, "CT")
    ds = enhanced(parts, change, ("StackID", "InStackPositionNumber", "TemporalPositionIndex"))
    holds(inspect(save(tmp_path, [ds])), parts, "dimension")


def test_unfinished_volume_says_so(tmp_path: Path) -> None:
    slices = classic(phantoms(3), lambda ds, v, _: setattr(ds, "TemporalPositionIdentifier", v + 1))
    last = next(ds for ds in slices if ds.InstanceNumber == 12)
    found = find_series(save(tmp_path, [ds for ds in slices if ds is not last]))
    warnings = [inspect_series(one).warnings for one in found]
    assert not warnings[0]
    assert any("3 slices where other volumes of the series have 4" in w for w in warnings[1])


class TestUnitedImagingGrid:
    """All slices of a volume as tiles of one image; a private sequence says where each lies."""

    @staticmethod
    def grid(phantom: Phantom) -> Dataset:
        ds = phantom.classic()[0]
        image = np.zeros((2 * 6, 2 * 5), np.uint16)
        items = []
        for k in range(3):
            row, column = divmod(k, 2)
            image[row * 6 : row * 6 + 6, column * 5 : column * 5 + 5] = phantom.stored[:, :, k].T
            items.append(Dataset())
            items[k].ImagePositionPatient = phantom.classic()[k].ImagePositionPatient
        ds.Rows, ds.Columns, ds.PixelData = *image.shape, image.tobytes()
        ds.Manufacturer, ds.ImageType = "UIH", ["ORIGINAL", "PRIMARY", "M", "VFRAME"]
        private(ds, 0x0065, "Image Private Header", 0x50, "DS", 3)
        private(ds, 0x0065, "Image Private Header", 0x51, "SQ", items)
        return ds

    def test_taken_apart(self, tmp_path: Path) -> None:
        phantom = Phantom("MR", np.random.default_rng(3).integers(24, 1200, (5, 6, 3)), orientation=(1, 0, 0, 0, 0, -1))
        holds(inspect(save(tmp_path, [self.grid(phantom)])), [phantom])

    def test_without_places(self, tmp_path: Path) -> None:
        ds = self.grid(Phantom("MR"))
        del ds[0x0065, 0x1051]
        with pytest.raises(InputError, match="a grid of 3 slices without the position of each"):
            inspect(save(tmp_path, [ds]))

    def test_in_implicit_vr(self, tmp_path: Path) -> None:
        phantom = Phantom("MR", np.random.default_rng(3).integers(24, 1200, (5, 6, 3)))
        holds(inspect(implicit(tmp_path, [self.grid(phantom)])), [phantom])


def implicit(folder: Path, datasets: list[Dataset]) -> Path:
    """Saved without VRs, as GE scanners send them: a private element is then only bytes."""
    for ds in datasets:
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return save(folder, datasets)


def test_ge_phase_in_implicit_vr(tmp_path: Path) -> None:
    """Magnitude, phase, real and imaginary part in one series."""

    def change(ds: Dataset, v: int, _: int) -> None:
        private(ds, 0x0043, "GEMS_PARM_01", 0x2F, "SS", v)

    found = find_series(implicit(tmp_path, classic(phantoms(4), change)))
    assert [one.foreign for one in found] == [
        None,
        "a phase image",
        "the real part of an MR image",
        "the imaginary part of an MR image",
    ]


def test_philips_diffusion_in_implicit_vr(tmp_path: Path) -> None:
    def change(ds: Dataset, v: int, _: int) -> None:
        private(ds, 0x2001, "Philips Imaging DD 001", 0x03, "FL", 1000.0 * (v > 0))
        for axis in range(3):
            private(ds, 0x2005, "Philips MR Imaging DD 001", 0xB0 + axis, "FL", DIRECTIONS[v][axis])

    parts = phantoms(4)
    holds(inspect(implicit(tmp_path, classic(parts, change))), parts, "b-value", "direction")


def test_every_slice_a_stack(tmp_path: Path) -> None:
    ds = Phantom("MR").enhanced()
    for n, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        groups.FrameContentSequence[0].StackID = str(n + 1)
    holds(inspect(save(tmp_path, [ds])), [Phantom("MR")])


def test_stacks_that_lie_side_by_side(tmp_path: Path) -> None:
    """Two stacks of one direction, one above the other with a gap: two volumes, not one with missing slices."""

    def change(groups: Dataset, v: int, k: int) -> None:
        groups.FrameContentSequence[0].StackID = str(v + 1)
        if v == 1:
            groups.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 500 + 4 * k]

    found = find_series(save(tmp_path, [enhanced(phantoms(2), change)]))
    assert [inspect_series(one).geometry.spacing[2] for one in found] == pytest.approx([2, 4])


@pytest.mark.parametrize(("kind", "foreign"), [("ORIGINAL", None), ("DERIVED", "a parameter map")])
def test_images_acquired_for_perfusion(tmp_path: Path, kind: str, foreign: str | None) -> None:
    """The third value of an original image says what it is for; of a derived one, what it shows."""

    def change(groups: Dataset, v: int, _: int) -> None:
        groups.FrameContentSequence[0].TemporalPositionIndex = v + 1
        frame_type = Dataset()
        frame_type.FrameType = [kind, "PRIMARY", "PERFUSION", "NONE"]
        groups.CTImageFrameTypeSequence = [frame_type]

    header = inspect(save(tmp_path, [enhanced(phantoms(2, "CT"), change)]))
    assert header.volumes == 2
    assert (header.foreign is None) == (foreign is None)


def at(places: Sequence[float], acquisitions: Sequence[int], modality: str = "CT") -> list[Dataset]:
    """One slice at each place in mm along z."""
    one = Phantom(modality, stored=np.random.default_rng(0).integers(24, 1200, (5, 6, len(places)))).classic()
    for ds, z, acquisition in zip(one, places, acquisitions, strict=True):
        ds.ImagePositionPatient, ds.AcquisitionNumber = [0, 0, z], acquisition
    return one


@pytest.mark.parametrize(
    ("places", "of_each"),
    [
        ([0, 2, 4, 6, 0.05, 2.05, 4.05, 6.05], [4, 4]),  # time points of a scan that follows the head
        ([0, 2, 4, 6, 5.3, 7.3, 9.3], [4, 3]),  # scans that overlap
        ([0, 2, 4, 6, 60.5, 62.5, 64.5], [4, 3]),  # stations of a moving table
    ],
)
def test_slabs_of_two_acquisitions(tmp_path: Path, places: list[float], of_each: list[int]) -> None:
    """Uneven together, and each even by itself: two volumes."""
    numbers = [n + 1 for n, count in enumerate(of_each) for _ in range(count)]
    found = find_series(save(tmp_path, at(places, numbers)))
    assert [inspect_series(one).geometry.shape[2] for one in found] == of_each
    assert [inspect_series(one).geometry.spacing[2] for one in found] == pytest.approx([2, 2])


def test_a_head_in_slices_of_two_distances(tmp_path: Path) -> None:
    """Slabs one above the other are filled on request, and every acquired slice is kept."""
    places = [0, 5, 10, 15, 20, 25, 35, 45, 55, 65, 75]
    folder = save(tmp_path, at(places, [1] * 6 + [2] * 5))
    with pytest.raises(InputError, match=r"elsewhere 5 mm\. --fill-gaps"):
        inspect(folder)
    header = inspect(folder, fill_gaps=True)
    array = read(header).array
    assert header.geometry.shape[2] == 16
    for z in places:
        slices = [ds for ds in at(places, [1] * 11) if ds.ImagePositionPatient[2] == z]
        np.testing.assert_array_equal(array[:, :, z // 5], slices[0].pixel_array.T - 1024.0)


def test_a_missing_slice_among_rounded_places(tmp_path: Path) -> None:
    """0.625 mm rounded to a tenth: the gaps are 0.6 and 0.7 mm, and a grid of either would be too long or too short."""
    places = [round(0.625 * k, 1) for k in range(80) if k != 33]
    header = inspect(save(tmp_path, at(places, [1] * 79)), fill_gaps=True)
    assert header.geometry.shape[2] == 80
    assert header.geometry.spacing[2] == pytest.approx(0.625, abs=1e-3)
