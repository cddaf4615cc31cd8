"""Every scan of a cohort planned before the first is begun: what will be done, what will not and why, under which key.

Reads headers alone, and to key a job the bytes of its files; never voxels as voxels, and imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsr.card import ModelCard, read_card
from medsr.errors import InputError, MedsrError
from medsr.image import nifti
from medsr.image.header import Header
from medsr.outputs import gradient_files
from medsr.plan import Plan, make_plan
from medsr.request import Request
from medsr.service.items import Found, Item, LeftOut, request_of
from medsr.service.tasks import Task

if TYPE_CHECKING:
    from medsr.image.dicom_read import Series

THREADS = 4  # most of planning waits for the disk
_CHUNK = 1 << 20  # bytes that are hashed at a time
_NOT_OF_THE_WORK = ("output", "memory_bytes", "estimated_seconds", "warnings")  # of Plan.to_json
_NOT_OF_THE_REQUEST = ("device", "threads", "model")  # the model counts by the hash of its tensors

Tell = Callable[[int], None]  # how many items have been looked at


@dataclass(frozen=True, eq=False)
class PlannedItem:
    """key: the same for the same input, plan and name; None where the files were not hashed. task: likewise."""

    item: Item
    request: Request
    plan: Plan
    key: str | None = None
    task: Task | None = None


@dataclass(frozen=True, eq=False)
class Planning:
    """What will be done, and what will not."""

    planned: tuple[PlannedItem, ...]
    left_out: tuple[LeftOut, ...]


def plan_items(found: Found, request: Request, *, hashed: bool, tell: Tell | None = None) -> Planning:
    """Plan every item; an item that cannot be planned is one row of ``left_out``.

    hashed: also read all bytes of the scans, for keys and tasks. A NIfTI file in a folder that is no MR or CT image by
    its header (a label map) is left out with exit code 0; one that the user named is refused, or taken for what
    ``modality`` says.
    Raises ModelError when the model cannot be read.
    """
    cards = _Cards(request.model)
    groups = list(_by_folder(found.items))
    planned: list[PlannedItem] = []
    left_out = list(found.left_out)
    with ThreadPoolExecutor(THREADS) as pool:
        for outcomes in pool.map(lambda group: list(_plan_group(group, request, cards, hashed=hashed)), groups):
            for outcome in outcomes:
                if isinstance(outcome, PlannedItem):
                    planned.append(outcome)
                else:
                    left_out.append(outcome)
            if tell is not None:
                tell(len(planned) + len(left_out) - len(found.left_out))
    return Planning(tuple(planned), tuple(left_out))


class _Cards:
    """Model cards, each read once. The command's own is read at once: without it there is nothing to plan."""

    def __init__(self, model: str) -> None:
        self._cards = {model: read_card(model)}

    def __call__(self, model: str) -> ModelCard:
        if model not in self._cards:
            self._cards[model] = read_card(model)
        return self._cards[model]


# --- one item --------------------------------------------------------------------------------------------------------


def _by_folder(items: Iterable[Item]) -> Iterator[list[Item]]:
    """DICOM items of one folder together, so that its headers are read once; every other item alone."""
    groups: dict[object, list[Item]] = {}
    for item in items:
        groups.setdefault(item.path if item.format == "dicom" else item, []).append(item)
    yield from groups.values()


def _plan_group(
    group: Sequence[Item], request: Request, cards: _Cards, *, hashed: bool
) -> Iterator[PlannedItem | LeftOut]:
    series: list[Series] = []
    if group[0].format == "dicom":
        from medsr.image.dicom_read import find_series

        try:
            series = find_series(group[0].path)
        except InputError as error:
            yield from (LeftOut(item.name, str(error), error.exit_code) for item in group)
            return
    for item in group:
        try:
            yield _plan_one(item, series, _absolute(request_of(item, request)), cards, hashed=hashed)
        except MedsrError as error:
            yield LeftOut(item.name, str(error), error.exit_code)
        except OSError as error:
            yield LeftOut(item.name, f"cannot be read: {error.strerror or error}", InputError.exit_code)
        except Exception as error:  # one scan must not end a cohort, whatever is wrong with it or with us
            yield LeftOut(item.name, f"unexpected {type(error).__name__} while planning: {error}", 1)


def _absolute(request: Request) -> Request:
    """With the paths that a worker in another folder, or on another computer, needs."""
    model = str(Path(request.model).absolute()) if request.model.endswith(".safetensors") else request.model
    template = request.dicom_template
    return replace(request, model=model, dicom_template=None if template is None else template.absolute())


def _plan_one(
    item: Item, series: Sequence[Series], request: Request, cards: _Cards, *, hashed: bool
) -> PlannedItem | LeftOut:
    chosen: Series | None = None
    if item.format == "dicom":
        from medsr.image.dicom_read import choose_series, inspect_series

        chosen = choose_series(series, item.series)
        header = inspect_series(chosen, fill_gaps=request.fill_gaps, deskew=request.deskew)
    else:
        header = nifti.inspect(item.path, prefer=request.prefer, assume_spacing=request.assume_spacing)
        if header.foreign is not None and not item.named:
            return LeftOut(item.name, f"not an MR or CT image: {header.foreign}. If it is one, name the file itself")
    plan = make_plan(header, request, cards(request.model))
    if not hashed:
        return PlannedItem(item, request, plan)
    digest = input_hash(_series_bytes(chosen) if chosen else _file_bytes(header, request))
    values = plan.to_json()
    task = Task(item.path, item.output, request, values, digest, item.notes)
    return PlannedItem(item, request, plan, job_key(item.name, digest, values, request), task)


# --- keys ------------------------------------------------------------------------------------------------------------


def job_key(name: str, input_sha256: str, plan: Mapping[str, Any], request: Request) -> str:
    """SHA-256 of the input's hash and the plan's: equal when the same is to be done to the same scan.

    plan: ``Plan.to_json``, of which output, estimates, warnings, device and threads do not count, and in place of the
    input's file name its name in the cohort does: copies of a scan in two places are two scans.
    """
    work = {k: v for k, v in plan.items() if k not in _NOT_OF_THE_WORK} | {"input": name}
    work["request"] = {k: v for k, v in plan["request"].items() if k not in _NOT_OF_THE_REQUEST}
    if request.dicom_template is not None:
        work["request"]["dicom_template"] = str(request.dicom_template)
    plan_sha256 = hashlib.sha256(json.dumps(work, sort_keys=True, default=str).encode()).hexdigest()
    return hashlib.sha256(f"{input_sha256}{plan_sha256}".encode()).hexdigest()


def input_hash(files: Iterable[Iterable[bytes]]) -> str:
    """SHA-256 of a scan: of its one file, or of the sorted hashes of its several files, whatever they are called."""
    digests = []
    for chunks in files:
        digest = hashlib.sha256()
        for chunk in chunks:
            digest.update(chunk)
        digests.append(digest.hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def _file_bytes(header: Header, request: Request) -> Iterator[Iterator[bytes]]:
    """The file, the other half of an .hdr and .img pair, and the directions that a 4-D output takes along."""
    path = header.path
    files = [path, *gradient_files(path, path, request)]
    name = path.name.lower()
    if name.endswith((".hdr", ".hdr.gz")):
        start = path.name[: name.rindex(".hdr")]
        files += [half for end in (".img", ".img.gz", ".IMG") if (half := path.with_name(start + end)).is_file()][:1]
    yield from (_chunks(file) for file in files)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _series_bytes(series: Series) -> Iterator[Iterator[bytes]]:
    yield from (iter([source.read()]) for source in {os.fspath(h.source.name): h.source for h in series.heads}.values())
