"""Every scan of a cohort planned before the first is begun: what will be done, what will not and why, under which key.

Reads headers alone, and to key a job the bytes of its files; never voxels as voxels, and imports no torch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from medsr.card import ModelCard, read_card
from medsr.errors import InputError, MedsrError
from medsr.image import nifti
from medsr.image.header import Header
from medsr.outputs import is_series
from medsr.plan import Plan, check_tags, make_plan
from medsr.request import Request
from medsr.service.identity import files_of, hash_of, job_key
from medsr.service.items import Found, Item, LeftOut, request_of
from medsr.service.tasks import Task

if TYPE_CHECKING:
    from medsr.image.dicom_read import Series

THREADS = 4  # most of planning waits for the disk

_AT_A_TIME = 256  # groups of items; their plans are in memory together

Tell = Callable[[int], None]  # how many items have been looked at
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class PlannedItem:
    """key: the same for the same input, plan and name; None where the files were not hashed. task: likewise. volumes:
    that the output will hold.
    """

    item: Item
    request: Request
    plan: Plan
    volumes: int = 1
    key: str | None = None
    task: Task | None = None


Outcomes = Generator[PlannedItem | LeftOut, None, None]  # closing it ends the reading ahead


@dataclass(frozen=True, eq=False)
class Planning:
    """What will be done, and what will not."""

    planned: tuple[PlannedItem, ...]
    left_out: tuple[LeftOut, ...]


def plan_items(found: Found, request: Request, *, hashed: bool, tell: Tell | None = None) -> Planning:
    """``plan_each``, all at once."""
    planned: list[PlannedItem] = []
    left_out: list[LeftOut] = []
    for outcome in plan_each(found, request, hashed=hashed, tell=tell):
        if isinstance(outcome, PlannedItem):
            planned.append(outcome)
        else:
            left_out.append(outcome)
    return Planning(tuple(planned), tuple(left_out))


def plan_each(found: Found, request: Request, *, hashed: bool, tell: Tell | None = None) -> Outcomes:
    """Plan every item, few at a time; one that cannot be planned is a ``LeftOut``, after those that were none before.

    hashed: also read all bytes of the scans, for keys and tasks. A NIfTI file in a folder that is no MR or CT image by
    its header (a label map) is left out with exit code 0; one that the user named is refused, or taken for what
    ``modality`` says. Raises ModelError when the model cannot be read.
    """
    known = _Known(request.model, hashed=hashed)
    yield from found.left_out
    looked_at = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for groups in batched(_by_folder(found.items), _AT_A_TIME):
            for outcomes in pool.map(lambda group: list(_plan_group(group, request, known, hashed=hashed)), groups):
                yield from outcomes
                looked_at += len(outcomes)
                if tell is not None:
                    tell(looked_at)


def batched(things: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of so many things, the last one of what is left."""
    iterator = iter(things)
    while some := list(islice(iterator, size)):
        yield some


@dataclass(frozen=True, eq=False)
class _Template:
    """A DICOM series whose tags results take. sha256: of its files, as ``input_hash``; None where it was not asked."""

    header: Header
    sha256: str | None


class _Known:
    """What many scans share, each read once: model cards and DICOM templates."""

    def __init__(self, model: str, *, hashed: bool) -> None:
        """The command's own card is read at once: without it there is nothing to plan."""
        self._cards = {model: read_card(model)}
        self._templates: dict[object, _Template | MedsrError] = {}
        self._hashed = hashed
        self._lock = threading.Lock()

    def card(self, model: str) -> ModelCard:
        """Raises ModelError."""
        if model not in self._cards:
            self._cards[model] = read_card(model)
        return self._cards[model]

    def template(self, request: Request) -> _Template | None:
        """The one that a request names. Raises InputError for what is no series, every time it is asked for."""
        if request.dicom_template is None:
            return None
        key = (request.dicom_template, request.series, request.deskew, request.fill_gaps)
        with self._lock:
            if key not in self._templates:
                try:
                    self._templates[key] = self._read(request.dicom_template, request)
                except MedsrError as error:
                    self._templates[key] = error
            found = self._templates[key]
        if isinstance(found, MedsrError):
            raise found
        return found

    def _read(self, path: Path, request: Request) -> _Template:
        from medsr.image import dicom_read

        header = dicom_read.inspect(path, series=request.series, deskew=request.deskew, fill_gaps=request.fill_gaps)
        return _Template(header, hash_of(files_of(header, request)) if self._hashed else None)


# --- one item --------------------------------------------------------------------------------------------------------


def _by_folder(items: Iterable[Item]) -> Iterator[list[Item]]:
    """DICOM items of one folder together, so that its headers are read once; every other item alone."""
    groups: dict[object, list[Item]] = {}
    for item in items:
        groups.setdefault(item.path if item.format == "dicom" else item, []).append(item)
    yield from groups.values()


def _plan_group(
    group: Sequence[Item], request: Request, known: _Known, *, hashed: bool
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
            yield _plan_one(item, series, _absolute(request_of(item, request)), known, hashed=hashed)
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
    item: Item, series: Sequence[Series], request: Request, known: _Known, *, hashed: bool
) -> PlannedItem | LeftOut:
    if item.format == "dicom":
        from medsr.image.dicom_read import choose_series, inspect_series

        chosen = choose_series(series, item.series)
        header = inspect_series(chosen, fill_gaps=request.fill_gaps, deskew=request.deskew)
    else:
        header = nifti.inspect(item.path, prefer=request.prefer, assume_spacing=request.assume_spacing)
        if header.foreign is not None and not item.named:
            return LeftOut(item.name, f"not an MR or CT image: {header.foreign}. If it is one, name the file itself")
    plan = make_plan(header, request, known.card(request.model))
    template = known.template(request)
    if is_series(Path(item.output)):
        check_tags(plan, header if template is None else template.header)
    volumes = header.volumes if request.volume == "all" else 1
    if not hashed:
        return PlannedItem(item, request, plan, volumes)
    digest, of_template = hash_of(files_of(header, request)), None if template is None else template.sha256
    values = plan.to_json()
    task = Task(item.path, item.output, request, values, digest, item.notes, of_template)
    return PlannedItem(item, request, plan, volumes, job_key(item.name, digest, values, request, of_template), task)
