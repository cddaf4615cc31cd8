"""From what the user names to the scans of a cohort; headers of DICOM are read, of the rest only names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from medsr.errors import ConfigError, InputError, PlanError
from medsr.image.files import display_name
from medsr.request import Request
from medsr.service.items import CLOSED, Found, Item, LeftOut, joined, output_of, printable
from medsr.service.series import SeriesFound, relative, series_in, spread_series
from medsr.service.table import called, read_table
from medsr.service.walk import is_hidden, packed_scans, walk

_SHEETS = (".tsv", ".xlsx", ".xls", ".ods")
_READ = "NIfTI (.nii, .nii.gz, .hdr), MGH, DICOM and zips of DICOM"


@dataclass(frozen=True, eq=False)
class Mention:
    """A path that the user named. name: how names of its scans begin, ``.`` for a folder that is the only input.
    options: of its row in a table.
    """

    path: Path
    name: PurePosixPath
    options: Mapping[str, Any]


def find_items(inputs: Sequence[Path], request: Request, *, out: Path) -> Found:
    """The scans that files, folders, zips and tables (.csv) lead to.

    request: its ``series`` chooses among DICOM series; what is no MR or CT image by its tags is left out, unless it is
    the only series, or chosen, and ``modality`` says what it is. out: folder of the outputs, which is not searched.

    A scan that is named twice is one item. Names of scans begin with the name of their folder where several folders
    are given. Scans whose outputs would have one name are left out with exit code 4. Raises ConfigError for a table
    that cannot be meant; whatever else is wrong with one scan is a row of ``left_out``.
    """
    mentions = _mentions(inputs)
    return without_collisions(joined(_expanded(m, request, Path(os.path.realpath(out))) for m in mentions))


def _mentions(inputs: Sequence[Path]) -> list[Mention]:
    several = sum(path.is_dir() for path in inputs) > 1
    mentions: list[Mention] = []
    for path in inputs:
        if path.suffix.lower() == ".csv" and path.is_file():
            mentions += [Mention(row.path, row.name, row.options) for row in read_table(path)]
        elif path.is_dir() and not several:
            mentions.append(Mention(path, PurePosixPath(), {}))
        elif path.suffix.lower() in _SHEETS and path.is_file():
            raise ConfigError(f"{display_name(path)}: a table of scans must be CSV; save it as .csv, with commas")
        else:
            mentions.append(Mention(path, PurePosixPath(called(path)), {}))
    return mentions


def without_collisions(found: Found) -> Found:
    """Each scan once; those that would write one output are refused, all of them, so that none depends on order."""
    mentioned: dict[tuple[str, str | None], list[Item]] = {}
    for item in found.items:
        mentioned.setdefault(item.identity, []).append(item)
    refused: list[LeftOut] = []
    by_output: dict[str, list[Item]] = {}
    for place, (first, *others) in mentioned.items():
        if any(other.options != first.options for other in others):
            reason = "the scan is named twice, with different options; name it once"
            refused.append(LeftOut(first.name, reason, PlanError.exit_code))
        elif first.target != place and first.target in mentioned:
            refused.append(_link_to(mentioned[first.target][0], first))
        else:
            by_output.setdefault(os.path.normcase(first.output), []).append(first)
    kept: list[Item] = []
    names: dict[str, list[Item]] = {}
    for same in by_output.values():
        if len(same) > 1:
            shared = " and ".join(item.name for item in same)
            reason = f"{shared} would both become {printable(same[0].output)}; rename one, or give their common folder"
            refused += [LeftOut(item.name, reason, PlanError.exit_code) for item in same]
        else:
            names.setdefault(same[0].name, []).append(same[0])
    for name, alike in names.items():
        if len(alike) > 1:  # as a tab, and a backslash with a t, are once both are printable
            reason = f"{len(alike)} files are called this in print; rename all but one"
            refused.append(LeftOut(name, reason, PlanError.exit_code))
        else:
            kept += alike
    left_out = {(row.name, row.reason): row for row in (*found.left_out, *refused)}
    return Found(tuple(kept), tuple(left_out.values()))


def _link_to(scan: Item, link: Item) -> LeftOut:
    if link.options == scan.options:
        return LeftOut(link.name, f"a link to {scan.name}, which is done once")
    reason = f"a link to {scan.name}, with other options; name one of them"
    return LeftOut(link.name, reason, PlanError.exit_code)


# --- one input -----------------------------------------------------------------------------------------------------


def _expanded(mention: Mention, request: Request, out: Path) -> Found:
    search = _Search(mention, replace(request, **mention.options), out)
    if mention.path.is_dir():
        return search.folder()
    if _is_dicom_file(mention.path):
        return search.dicom(mention.path, mention.name)
    return Found((search.scan(mention.path, mention.name, named=True),))


def _is_dicom_file(path: Path) -> bool:
    from medsr.image.dicom_read import is_dicom_path

    return is_dicom_path(path)


@dataclass(frozen=True, eq=False)
class _Search:
    """What is asked of one mention. request: with the options of its row."""

    mention: Mention
    request: Request
    out: Path

    def folder(self) -> Found:
        top, name = self.mention.path, self.mention.name
        tree = walk(top, leave_out=self.out)
        parts = [Found((self.scan(path, name / relative(path, top), named=False),)) for path in tree.scans]
        parts += [self.dicom(path, name / relative(path, top)) for path in tree.archives]
        parts.append(self._below(top, tree.dicom))
        closed = [LeftOut(self._called(path), CLOSED, InputError.exit_code) for path in tree.closed]
        found = joined([*parts, Found((), tuple(closed))])
        if not found.items and not found.left_out:
            reason = f"{printable(called(top))} holds no scan; medsr reads {_READ}"
            return Found((), (LeftOut(self._called(top), reason, PlanError.exit_code),))
        return found

    def scan(self, path: Path, name: PurePosixPath, *, named: bool) -> Item:
        """A NIfTI or MGH file, or what the user takes for one."""
        dicom = self.request.dicom_template is not None
        return Item(
            printable(name),
            path.absolute(),
            output_of(name, series=dicom),
            options=self.mention.options,
            named=named,
        )

    def dicom(self, path: Path, name: PurePosixPath) -> Found:
        """A zip or one file of DICOM."""
        packed = packed_scans(path)
        files = "1 NIfTI file" if packed == 1 else f"{packed} NIfTI files"
        reason = f"{files} in a zip, from which medsr reads DICOM only; unpack it"
        nifti = Found((), (LeftOut(printable(name), reason, InputError.exit_code),) if packed else ())
        try:
            found = series_in(path)
        except InputError as error:
            return nifti if packed else Found((), (LeftOut(printable(name), str(error), InputError.exit_code),))
        return joined([self._rows(found, name), nifti])

    def _below(self, top: Path, folders: Sequence[Path]) -> Found:
        """The series below each of several folders; one that is spread over several of them is put together."""
        found: dict[Path, list[SeriesFound]] = {}
        refused: list[LeftOut] = []

        def search(folder: Path) -> None:
            try:
                found[folder] = series_in(folder)
            except InputError as error:
                refused.append(LeftOut(self._called(folder), str(error), InputError.exit_code))

        for folder in folders:
            search(folder)
        for spread in spread_series(found):
            within = [folder for folder in found if folder.is_relative_to(spread.common)]
            try:
                together = series_in(spread.common)
            except InputError as error:  # the common folder may be the whole archive, which is too large for one look
                refused += [
                    LeftOut(
                        self._called(folder / one.name),
                        f"{one.text}: slices of it lie in {len(spread.folders)} folders, and {error}",
                        InputError.exit_code,
                    )
                    for folder in within
                    for one in found[folder]
                    if one.uid in spread.uids
                ]
                for folder in within:
                    found[folder] = [one for one in found[folder] if one.uid not in spread.uids]
            else:
                for folder in within:
                    del found[folder]
                found[spread.common] = together
        parts = [
            self._rows(series, self.mention.name / relative(folder, top)) for folder, series in sorted(found.items())
        ]
        return joined([*parts, Found((), tuple(refused))])

    def _called(self, path: Path) -> str:
        """Name of a folder for a row."""
        name = self.mention.name / relative(path, self.mention.path)
        return printable(name if name.name else called(self.mention.path))

    def _rows(self, found: Sequence[SeriesFound], name: PurePosixPath) -> Found:
        """Volumes as items, the others with their reasons; files of our own making and hidden ones are passed over."""
        items: list[Item] = []
        left_out: list[LeftOut] = []
        meant = self.request.series is not None or len(found) == 1  # as for upscale: not one among others
        for one in found:
            full = name / one.name
            shown = printable(full)
            if self._is_ours(one):
                continue
            wanted = self.request.series
            if wanted is not None and not one.is_called(wanted):
                left_out.append(LeftOut(shown, f"not the series that --series {wanted} means: {one.text}"))
            elif one.no_image or (one.foreign is not None and not (meant and self.request.modality != "auto")):
                left_out.append(LeftOut(shown, f"{one.text}: {one.fault if one.no_image else one.foreign}"))
            elif one.fault is not None:
                left_out.append(LeftOut(shown, f"{one.text}: {one.fault}", InputError.exit_code))
            else:
                items.append(
                    Item(
                        shown,
                        one.path.absolute(),
                        output_of(full, series=True),
                        "dicom",
                        one.identity,
                        {k: v for k, v in self.mention.options.items() if k != "series"},
                    )
                )
        return Found(tuple(items), tuple(left_out))

    def _is_ours(self, one: SeriesFound) -> bool:
        top = self.mention.path
        real = os.path.realpath(top)
        below = str(self.out) != real and self.out.is_relative_to(real)
        inside = below and Path(os.path.realpath(one.path)).is_relative_to(self.out)
        return inside or (one.path.is_relative_to(top) and is_hidden(one.path, top))


def check_inputs(inputs: Sequence[Path]) -> None:
    """Refuse paths that do not exist before anything is searched. Raises ConfigError naming all of them."""
    missing: dict[str, list[str]] = {}
    for path in inputs:
        try:
            path.lstat()
        except FileNotFoundError:
            missing.setdefault("there is no such file or folder", []).append(display_name(path))
        except OSError as error:
            missing.setdefault(f"cannot be looked at ({error.strerror})", []).append(display_name(path))
    if missing:
        raise ConfigError("; ".join(f"{', '.join(names)}: {reason}" for reason, names in missing.items()))
