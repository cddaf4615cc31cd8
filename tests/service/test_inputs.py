"""Discovery: every scan of a cohort once, under a name of its own, and a reason for whatever is left out."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsr.errors import ConfigError
from medsr.image import dicom_files
from medsr.image.dicom_read import choose_series, find_series
from medsr.image.geometry import Geometry
from medsr.image.nifti import write
from medsr.image.volume import Provenance, Volume
from medsr.request import Request
from medsr.service.inputs import check_inputs, find_items
from medsr.service.items import request_of
from medsr.service.planning import plan_items
from medsr.service.table import read_table
from tests.image.dicom_phantom import Phantom, save
from tests.service.cohorts import close


def scan(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(0).random((8, 7, 6)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.diag([1, 1, 3, 1])), path)
    return path


def names(root: Path, out: Path | None = None) -> list[str]:
    return [item.name for item in find_items([root], Request(), out=out or root / "out").items]


def test_folder_is_mirrored(tmp_path: Path) -> None:
    for name in ("b/scan.nii.gz", "a/deep/scan.nii", "top.mgz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_items([tmp_path], Request(), out=tmp_path / "out")
    assert {item.name: item.output for item in found.items} == {
        "a/deep/scan.nii": "a/deep/scan_sr.nii.gz",
        "b/scan.nii.gz": "b/scan_sr.nii.gz",
        "top.mgz": "top_sr.nii.gz",
    }
    assert found.left_out == ()


def test_own_outputs_and_hidden_files_are_no_inputs(tmp_path: Path) -> None:
    scan(tmp_path / "scan.nii.gz")
    scan(tmp_path / "out/x_sr.nii.gz")
    scan(tmp_path / ".medsr-12345678-aa.part/scan_sr.nii.gz")
    scan(tmp_path / "._scan.nii.gz")
    volume = Volume(np.ones((4, 4, 4), np.float32), Geometry((4, 4, 4), np.eye(4)), "MR", Provenance("x", ""))
    write(tmp_path / "scan_sr.nii.gz", volume)
    write(tmp_path / "plain_sr.nii", volume)
    write(tmp_path / "coarse.nii.gz", volume, mark="degraded, not acquired")
    assert names(tmp_path) == ["coarse.nii.gz", "scan.nii.gz"]


def test_loop_of_links_ends_and_linked_folders_are_followed(tmp_path: Path) -> None:
    scan(tmp_path / "elsewhere/sub-02/t1.nii.gz")
    root = tmp_path / "root"
    scan(root / "sub-01/t1.nii.gz")
    (root / "sub-02").symlink_to(tmp_path / "elsewhere/sub-02")
    (root / "sub-01/loop").symlink_to(root)
    (root / "twin.nii.gz").symlink_to(root / "sub-01/t1.nii.gz")
    (root / "gone.nii.gz").symlink_to(root / "nothing")
    assert names(root) == ["gone.nii.gz", "sub-01/t1.nii.gz", "sub-02/t1.nii.gz"]


def test_what_is_no_regular_file_is_a_row_and_never_waited_for(tmp_path: Path) -> None:
    """A pipe that nobody writes into, named or linked to, would be waited for without end."""
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe_T1w.nii.gz")
    os.mkfifo(tmp_path / "pipe.zip")
    for name, target in {"a.nii.gz": "pipe", "b": "pipe", "c.nii": "/dev/zero", "d.nii.gz": "d.nii.gz"}.items():
        (tmp_path / name).symlink_to(target)
    for inputs in ([tmp_path], [tmp_path / "pipe_T1w.nii.gz", tmp_path / "a.nii.gz", tmp_path / "d.nii.gz"]):
        planning = plan_items(find_items(inputs, Request(), out=tmp_path / "out"), Request(), hashed=False)
        assert planning.planned == ()
        named = {"a.nii.gz", "d.nii.gz", "pipe_T1w.nii.gz"} | ({"c.nii", "pipe.zip"} if inputs == [tmp_path] else set())
        assert {(row.name, row.exit_code) for row in planning.left_out} == {(name, 3) for name in named}


def test_link_is_called_by_its_own_name(tmp_path: Path) -> None:
    """In a data store (git-annex, DataLad) scans are links to files that are called by a hash."""
    key = scan(tmp_path / ".git/annex/objects/MD5E-s9--0123.nii.gz")
    for name in ("sub-1_T1w.nii.gz", "sub-2_T1w.nii.gz"):
        (tmp_path / name).symlink_to(key)
    (tmp_path / "gone_T1w.nii.gz").symlink_to(key.with_name("gone"))
    paths = sorted(tmp_path.glob("*.nii.gz"))
    for inputs in ([tmp_path], paths, [*paths, tmp_path]):
        found = find_items(inputs, Request(), out=tmp_path / "out")
        assert [item.output for item in found.items] == [
            "gone_T1w_sr.nii.gz", "sub-1_T1w_sr.nii.gz", "sub-2_T1w_sr.nii.gz",
        ]  # fmt: skip
        assert found.left_out == ()


def test_link_to_another_scan_is_left_out_with_the_reason(tmp_path: Path) -> None:
    first = scan(tmp_path / "sub-1/t1.nii.gz")
    (tmp_path / "all").mkdir()
    (tmp_path / "all/one.nii.gz").symlink_to(first)
    found = find_items([tmp_path], Request(), out=tmp_path / "out")
    assert [item.name for item in found.items] == ["sub-1/t1.nii.gz"]
    assert [(row.name, row.exit_code) for row in found.left_out] == [("all/one.nii.gz", 0)]
    assert "sub-1/t1.nii.gz" in found.left_out[0].reason


def test_scan_named_twice_is_one_item(tmp_path: Path) -> None:
    first = scan(tmp_path / "sub/a.nii.gz")
    found = find_items([first, tmp_path / "sub", first], Request(), out=tmp_path / "out")
    assert [item.name for item in found.items] == ["a.nii.gz"]
    assert found.items[0].named


def test_outputs_of_one_name_are_refused_whatever_the_order(tmp_path: Path) -> None:
    paths = [scan(tmp_path / name) for name in ("a.nii", "a.nii.gz", "b.nii.gz")]
    for order in (paths, paths[::-1], [tmp_path]):
        found = find_items(order, Request(), out=tmp_path / "out")
        assert [item.name for item in found.items] == ["b.nii.gz"]
        assert {(row.name, row.exit_code) for row in found.left_out} == {("a.nii", 4), ("a.nii.gz", 4)}


def test_several_folders_keep_their_names_apart(tmp_path: Path) -> None:
    scan(tmp_path / "one/a.nii.gz"), scan(tmp_path / "two/a.nii.gz")
    found = find_items([tmp_path / "one", tmp_path / "two"], Request(), out=tmp_path / "out")
    assert [item.output for item in found.items] == ["one/a_sr.nii.gz", "two/a_sr.nii.gz"]


def test_closed_folder_is_a_row(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii.gz")
    (tmp_path / "closed").mkdir()
    close(tmp_path / "closed")
    found = find_items([tmp_path], Request(), out=tmp_path / "out")
    assert [(row.name, row.exit_code) for row in found.left_out] == [("closed", 3)]


def test_folder_without_scans_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    (row,) = find_items([tmp_path], Request(), out=tmp_path / "out").left_out
    assert row.exit_code == 4
    assert "holds no scan" in row.reason


def test_missing_inputs_are_named_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.nii, b\.nii"):
        check_inputs([tmp_path / "a.nii", tmp_path, tmp_path / "b.nii"])


def test_input_in_a_file_or_with_a_name_too_long(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii")
    with pytest.raises(ConfigError, match=r"b\.nii: cannot be looked at .Not a directory.; x+: .*too long"):
        check_inputs([tmp_path / "a.nii/b.nii", tmp_path / ("x" * 300)])


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_names_are_one_printable_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("names")
    path = folder / f"x{text}.nii.gz"
    path.touch()
    (item,) = find_items([folder], Request(), out=folder / "out").items
    assert item.name.isprintable()
    assert item.name.encode()
    assert item.path == path


def test_bytes_that_are_no_text_keep_their_path(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/sc\xffan.nii.gz"))
    path.touch()
    (item,) = find_items([tmp_path], Request(), out=tmp_path / "out").items
    assert item.name == r"sc\udcffan.nii.gz"
    assert os.fsencode(item.path).endswith(b"sc\xffan.nii.gz")


def test_names_that_are_one_in_print_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a\t.nii").touch()
    (tmp_path / "a\\t.nii").touch()
    found = find_items([tmp_path], Request(), out=tmp_path / "out")
    assert found.items == ()
    assert [(row.name, row.exit_code) for row in found.left_out] == [("a\\t.nii", 4)]


# --- DICOM -----------------------------------------------------------------------------------------------------------


def series_number(name: str) -> str:
    return name.rsplit("/", 1)[-1].split("-")[1]


def test_dicom_tree_gives_a_series_each(tmp_path: Path) -> None:
    save(tmp_path / "p1/ct", Phantom(series=4).classic())
    save(tmp_path / "p1/mr", Phantom(modality="MR", series=5).classic())
    localizer = Phantom(series=6).classic()
    for ds in localizer:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(tmp_path / "p2", localizer)
    scan(tmp_path / "p3/t1.nii.gz")
    found = find_items([tmp_path], Request(), out=tmp_path / "out")
    by_name = {item.name.rsplit("/", 1)[0]: item for item in found.items}
    assert sorted(by_name) == ["p1/ct", "p1/mr", "p3"]
    ct = by_name["p1/ct"]
    assert (ct.path, ct.format, series_number(ct.name)) == (tmp_path / "p1/ct", "dicom", "4")
    assert ct.output == ct.name + "_sr"
    (row,) = found.left_out
    assert row.name.startswith("p2/series-6-")
    assert row.exit_code == 0
    assert "localizer" in row.reason


def test_two_series_in_one_folder_are_two_items(tmp_path: Path) -> None:
    save(tmp_path, Phantom(series=4).classic(), "A")
    save(tmp_path, Phantom(modality="MR", series=4).classic(), "B")
    found = find_items([tmp_path], Request(), out=tmp_path / "out")
    assert len({item.output for item in found.items}) == len(found.items) == len({i.series for i in found.items})


def test_series_spread_over_folders_is_put_together(tmp_path: Path) -> None:
    slices = Phantom(series=4).classic()
    save(tmp_path / "study/a", slices[:3])
    save(tmp_path / "study/b", slices[3:])
    save(tmp_path / "other/c", Phantom(modality="MR", series=5).classic())
    found = find_items([tmp_path], Request(), out=tmp_path / "out")
    assert {item.path for item in found.items} == {tmp_path / "study", tmp_path / "other/c"}


def test_spread_series_are_looked_for_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder above all studies may be an archive of millions of files: it is not searched as one."""
    for number, study in enumerate(("one", "two")):
        slices = Phantom(series=4 + number).classic()
        save(tmp_path / study / "a", slices[:3]), save(tmp_path / study / "b", slices[3:])
    monkeypatch.setattr(dicom_files, "_MAX_FILES", 10)  # each study has 7
    found = find_items([tmp_path], Request(), out=tmp_path / "out")
    assert {item.path for item in found.items} == {tmp_path / "one", tmp_path / "two"}
    assert found.left_out == ()


def test_series_spread_too_far_is_refused_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slices = Phantom(modality="MR", series=4).classic()
    save(tmp_path / "one/a", slices[:3]), save(tmp_path / "two/b", slices[3:])
    for folder in ("one/c", "two/d"):
        save(tmp_path / folder, Phantom(series=5).classic())
    monkeypatch.setattr(dicom_files, "_MAX_FILES", 10)
    found = find_items([tmp_path], Request(), out=tmp_path / "out")
    assert {item.path for item in found.items} == {tmp_path / "one/c", tmp_path / "two/d"}
    assert [row.exit_code for row in found.left_out] == [3, 3]
    assert all(row.name.startswith(("one/a/series-4-", "two/b/series-4-")) for row in found.left_out)
    assert "2 folders" in found.left_out[0].reason


def test_nifti_in_a_zip_is_not_passed_over(tmp_path: Path) -> None:
    folder = save(tmp_path / "src", Phantom(series=4).classic())
    (tmp_path / "in").mkdir()
    for name, with_dicom in (("both.zip", True), ("nifti.zip", False)):
        with zipfile.ZipFile(tmp_path / "in" / name, "w") as archive:
            archive.write(scan(tmp_path / "t1.nii.gz"), "deep/t1.nii.gz")
            for file in sorted(folder.iterdir()) if with_dicom else ():
                archive.write(file, file.name)
    found = find_items([tmp_path / "in"], Request(), out=tmp_path / "out")
    assert [item.path.name for item in found.items] == ["both.zip"]
    assert [(row.name, row.exit_code) for row in found.left_out] == [("both.zip", 3), ("nifti.zip", 3)]
    for row in found.left_out:
        assert "1 NIfTI file" in row.reason
        assert "unpack" in row.reason


def test_copies_of_a_series_in_two_folders_are_two_items(tmp_path: Path) -> None:
    save(tmp_path / "a/s", Phantom(series=4).classic())
    save(tmp_path / "b/s", Phantom(series=4).classic())
    found = find_items([tmp_path], Request(), out=tmp_path / "out")
    assert {item.path for item in found.items} == {tmp_path / "a/s", tmp_path / "b/s"}


def test_part_of_a_series_is_found_again(tmp_path: Path) -> None:
    """A slice turned away is a part of its own, in a file of its own: it keeps its number in the whole series."""
    slices = Phantom(modality="MR", series=5).classic()
    slices[0].ImageOrientationPatient = [0, 1, 0, 0, 0, 1]
    save(tmp_path / "s/one", slices[:1])
    save(tmp_path / "s/rest", slices[1:])
    found = find_items([tmp_path], Request(), out=tmp_path / "out")
    assert len(found.items) == 2
    for item in found.items:
        assert item.path == tmp_path / "s"
        assert choose_series(find_series(item.path), item.series).part == int(item.series.rpartition("/")[2])


def test_damaged_slice_fails_its_series_and_no_other(tmp_path: Path) -> None:
    save(tmp_path / "good", Phantom(series=4).classic())
    folder = save(tmp_path / "bad", Phantom(modality="MR", series=5).classic())
    first = min(folder.iterdir())
    first.write_bytes(first.read_bytes()[:140])
    found = find_items([tmp_path], Request(), out=tmp_path / "out")
    assert [item.path for item in found.items] == [tmp_path / "good"]
    assert [row.exit_code for row in found.left_out] == [3]


def test_dicom_without_preamble_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    scan(tmp_path / "t1.nii.gz")
    folder = save(tmp_path / "old", Phantom(series=4).classic())
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[132:])
    found = find_items([tmp_path], Request(), out=tmp_path / "out")
    assert [item.name for item in found.items] == ["t1.nii.gz"]
    assert [(row.name, row.exit_code) for row in found.left_out] == [("old", 3)]
    assert "preamble" in found.left_out[0].reason


def test_zip_beside_scans(tmp_path: Path) -> None:
    folder = save(tmp_path / "src", Phantom(series=4).classic())
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in/study.zip", "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"deep/{file.name}")
    with zipfile.ZipFile(tmp_path / "in/code.zip", "w") as archive:
        archive.writestr("readme.txt", "no scan")
    found = find_items([tmp_path / "in"], Request(), out=tmp_path / "out")
    (item,) = found.items
    assert item.path == tmp_path / "in/study.zip"
    assert item.name.startswith("study.zip/series-4-")
    assert [(row.name, row.exit_code) for row in found.left_out] == [("code.zip", 3)]


def test_series_option_leaves_the_others_out(tmp_path: Path) -> None:
    save(tmp_path, Phantom(series=4).classic(), "A")
    save(tmp_path, Phantom(modality="MR", series=5).classic(), "B")
    found = find_items([tmp_path], Request(series="5"), out=tmp_path / "out")
    assert [series_number(item.name) for item in found.items] == ["5"]
    assert [row.exit_code for row in found.left_out] == [0]


def test_output_inside_the_input_is_not_read_as_dicom(tmp_path: Path) -> None:
    save(tmp_path / "in", Phantom(series=4).classic())
    save(tmp_path / "in/out/x_sr", Phantom(modality="MR", series=401).classic())
    found = find_items([tmp_path / "in"], Request(), out=tmp_path / "in/out")
    assert [series_number(item.name) for item in found.items] == ["4"]
    assert found.left_out == ()


def test_every_series_of_the_real_tree_is_planned_or_has_a_reason(data_dir: Path, tmp_path: Path) -> None:
    found = find_items([data_dir / "dicom"], Request(), out=tmp_path)
    planning = plan_items(found, Request(), hashed=False)
    assert len(planning.planned) + len(planning.left_out) == len(found.items) + len(found.left_out)
    assert len(planning.planned) > 20
    assert not [row for row in planning.left_out if row.exit_code == 1 or "no series to upscale" in row.reason]
    folders = {folder.name for folder in (data_dir / "dicom").iterdir() if folder.is_dir()}
    named = {one.item.name.split("/")[0] for one in planning.planned} | {
        row.name.split("/")[0] for row in planning.left_out
    }
    assert folders <= named


# --- tables ----------------------------------------------------------------------------------------------------------


def table(folder: Path, text: str) -> Path:
    path = folder / "cohort.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_table_gives_options_by_row(tmp_path: Path) -> None:
    scan(tmp_path / "a/x.nii.gz"), scan(tmp_path / "a/y.nii.gz")
    path = table(tmp_path, "path,modality,scale,texture,uncertainty\na/x.nii.gz,MR,2x2x1,,yes\na/y.nii.gz,,,0.5,\n")
    first, second = find_items([path], Request(), out=tmp_path / "out").items
    assert (first.name, first.options) == ("a/x.nii.gz", {"modality": "mr", "scale": (2, 2, 1), "uncertainty": True})
    assert second.options == {"texture": 0.5}
    asked = Request(isotropic=True, seed=3)
    assert request_of(first, asked) == Request(modality="mr", scale=(2, 2, 1), uncertainty=True, seed=3)
    assert request_of(second, asked) == Request(isotropic=True, texture=0.5, seed=3)


def test_row_of_a_folder_and_a_series(tmp_path: Path) -> None:
    save(tmp_path / "study", Phantom(series=4).classic(), "A")
    save(tmp_path / "study", Phantom(modality="MR", series=5).classic(), "B")
    (item,) = find_items([table(tmp_path, "path,series,deskew\nstudy,5,true\n")], Request(), out=tmp_path / "out").items
    assert series_number(item.name) == "5"
    request = request_of(item, Request(prefer="sform"))
    assert (request.series, request.deskew, request.prefer) == (item.series, True, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,colour\na.nii,red\n", "unknown column colour"),
        ("file\na.nii\n", "no column 'path'"),
        ("path\n", "no rows"),
        ("", "no column 'path'"),
        ("path,scale,scale\na,1,1\n", "twice"),
        ("path,device\na,cpu\n", "unknown column device"),
        ("path,scale\na.nii,2\nb.nii,2x2\nc.nii,x\n", "line 3.*line 4"),
        ("path,texture\na.nii,1,2\n,0.5\n", "line 2.*line 3: no path"),
        ("path\na.nii\n./a.nii\n", "line 3.*line 2 already"),
        ("path,modality\na.nii,pet\n", "expected auto or mr or ct"),
        ("path,isotropic\na.nii,maybe\n", "expected yes or no"),
        ('path\n"a.nii\n', "cannot be read as CSV"),
        ("path;scale\na.nii;2\n", "semicolons"),
        ("path\tscale\na.nii\t2\n", "tabs"),
        ("path\na.nii\nb\0.nii\n", "line 3: .*NUL"),
        ("path,\na.nii,x\n", "unknown column .empty"),
    ],
)
def test_bad_table_is_refused_with_every_bad_row(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_table(table(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["..", "a/..", "../a/..", "."])
def test_no_row_leads_out_of_the_folder_of_outputs(tmp_path: Path, path: str) -> None:
    scan(tmp_path / "study/a/x.nii.gz")
    listed = table(tmp_path / "study", f"path\n{path}\n")
    found = find_items([listed], Request(), out=tmp_path / "out")
    assert found.items
    for item in found.items:
        assert ".." not in item.output.split("/")


def test_empty_columns_of_a_spreadsheet_are_no_columns(tmp_path: Path) -> None:
    rows = read_table(table(tmp_path, "\ufeffPath, Scale ,,\r\na.nii,2,,\r\n,,,\r\nb.nii,,,\r\n"))
    assert [(row.name.name, dict(row.options)) for row in rows] == [("a.nii", {"scale": (2.0,)}), ("b.nii", {})]


def test_sheet_that_is_no_csv(tmp_path: Path) -> None:
    (tmp_path / "cohort.xlsx").write_bytes(b"PK\3\4")
    with pytest.raises(ConfigError, match=r"save it as \.csv"):
        find_items([tmp_path / "cohort.xlsx"], Request(), out=tmp_path / "out")


def test_scan_with_two_sets_of_options_is_refused(tmp_path: Path) -> None:
    path = scan(tmp_path / "x.nii.gz")
    found = find_items([path, table(tmp_path, "path,scale\nx.nii.gz,3\n")], Request(), out=tmp_path / "out")
    assert found.items == ()
    assert [row.exit_code for row in found.left_out] == [4]
