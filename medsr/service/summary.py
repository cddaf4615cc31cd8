"""``summary.html``: how a batch went, on one page that loads nothing."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from medsr.errors import MedsrError
from medsr.image.files import atomic_write
from medsr.image.render import display_window, oriented_slice
from medsr.image.scan import read
from medsr.image.volume import Volume, given_modality
from medsr.page.markup import Column, Html, breakable, join, paragraph, table, tag
from medsr.page.shell import HONESTY, MADE, facts, limits, navigation, page, section, warning
from medsr.page.viewer import still
from medsr.service.jobs import Job, JobStore
from medsr.service.manifest import MANIFEST, TABLE, Row, read_manifest
from medsr.service.place import Place
from medsr.service.tasks import Task

PAGE = "summary.html"
MOST_PICTURES = 8  # scans that are shown; reading them again takes as long as reading them the first time
MOST_ROWS = 200  # of a table on the page; the manifest has all
_WORDS = {"done": "done", "failed": "failed", "parked": "parked", "skipped": "left out", "queued": "waiting",
          "running": "running"}  # fmt: skip


def write_summary(place: Place, store: JobStore, *, pictures: bool = True) -> None:
    """Write the page, of all parts, from the manifest. store: of this part, for the pictures, where they are wanted."""
    looks = _looks(place.out, store) if pictures else ()
    with atomic_write(place.out / PAGE, overwrite=True) as stream:
        stream.write(summary_page(read_manifest(place.out / MANIFEST), looks).encode())


def summary_page(rows: Iterable[Row], looks: Iterable[Look]) -> Html:
    """The page of a batch. rows: are gone through once, and few of them kept."""
    sums = _Sums()
    for row in rows:
        sums.add(row)
    pictures = list(looks)
    sections = [
        ("pace", "Pace", _pace(sums), bool(sums.starts)),
        ("failures", "What failed, by reason", _failures(sums), bool(sums.trouble.count)),
        ("left-out", "What was left out", _reasons(sums.left_out), bool(sums.left_out.count)),
        ("look", "Look", _pictures(pictures), bool(pictures)),
        ("scans", "Scans", _scans(sums.all), True),
    ]
    shown = [(identity, title, content) for identity, title, content, there in sections if there]
    header = [
        tag("p", {"class": "answer"}, in_words(sums.states)),
        warning(f"No result: {sums.trouble.count} of {sums.all.count}.") if sums.trouble.count else "",
        navigation([(identity, title) for identity, title, _ in shown] + [("limits", "Limits")]),
    ]
    body = [section(title, identity, content) for identity, title, content in shown]
    footer = f"Made by medsr from the list of jobs. All of it is in {MANIFEST} and {TABLE}. {HONESTY} {MADE}"
    return page("Batch", header, [*body, limits()], footer)


def in_words(count: Counter[str]) -> str:
    """States with how many scans are in them: ``12 scans: 10 done, 1 failed, 1 left out``."""
    parts = [f"{count[state]} {word}" for state, word in _WORDS.items() if count[state]]
    total = count.total()
    return f"{total} {'scan' if total == 1 else 'scans'}: {', '.join(parts)}" if parts else "no scans"


# --- figures ---------------------------------------------------------------------------------------------------------


@dataclass
class _Rows:
    """How many there are, and the first of them, for a table."""

    count: int = 0
    first: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.count += 1
        if len(self.first) < MOST_ROWS:
            self.first.append(row)


@dataclass
class _Sums:
    """What the page says of all rows. reasons: exit code and text. starts, stops: of the scans that are done."""

    states: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[int | None, str]] = field(default_factory=Counter)
    all: _Rows = field(default_factory=_Rows)
    trouble: _Rows = field(default_factory=_Rows)
    left_out: _Rows = field(default_factory=_Rows)
    starts: array[float] = field(default_factory=lambda: array("d"))
    stops: array[float] = field(default_factory=lambda: array("d"))
    stages: dict[str, float] = field(default_factory=dict)
    residual: float | None = None
    again: int = 0

    def add(self, row: Row) -> None:
        self.states[row.state] += 1
        self.all.add(row)
        if row.state in ("failed", "parked"):
            self.trouble.add(row)
            self.reasons[row.exit_code, _reason(row)] += 1
        elif row.state == "skipped":
            self.left_out.add(row)
        elif row.state == "done" and row.started is not None and row.finished is not None:
            self.starts.append(row.started)
            self.stops.append(row.finished)
            self.again += row.attempts > 1
            for stage, seconds in row.seconds.items():
                self.stages[stage] = self.stages.get(stage, 0.0) + seconds
            if row.residual is not None:
                self.residual = max(row.residual, self.residual or 0.0)


def busy_seconds(starts: Iterable[float], stops: Iterable[float]) -> float:
    """Time in which at least one scan was being worked on: pauses between runs do not count."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(zip(starts, stops, strict=True)):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def _pace(sums: _Sums) -> Html:
    done = len(sums.starts)
    if not done:
        return Html("")
    busy = busy_seconds(sums.starts, sums.stops)
    pairs: list[tuple[str, object]] = [
        ("Finished", _moment(max(sums.stops))),
        ("At work", f"{busy:.0f} s, without pauses between runs"),
        ("Throughput", f"{_rate(3600 * done / busy)} scans an hour" if busy > 0 else "not measured"),
        ("Seconds of a scan", ", ".join(f"{name} {s / done:.2f}" for name, s in sums.stages.items()) + " (means)"),
        ("Scans tried more than once", str(sums.again)),
    ]
    if sums.residual is not None:
        pairs.append(("Largest residual", f"{sums.residual:.2g} of a scan's standard deviation"))
    return facts(pairs)


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


# --- tables ----------------------------------------------------------------------------------------------------------


def _reason(row: Row) -> str:
    """Why, without the scan's own name, so that the same reason is the same text for all scans."""
    text = row.error or "no reason was recorded"
    for name in (row.name, row.name.rsplit("/", 1)[-1]):
        text = text.replace(name, "the scan")
    return text


def _failures(sums: _Sums) -> Html:
    reasons = sums.reasons.most_common(MOST_ROWS)
    counted = table(
        "Reasons, the most frequent first. Exit codes are those of the command line.",
        (Column("Scans"), Column("Exit code"), Column("Reason", number=False)),
        [(str(n), "" if code is None else str(code), reason) for (code, reason), n in reasons],
    )
    named = table(
        _caption("Every scan without a result.", sums.trouble),
        (Column("Scan", number=False), Column("State", number=False), Column("Attempts"), Column("Why", number=False)),
        [(breakable(r.name), _WORDS[r.state], str(r.attempts), r.error or "") for r in sums.trouble.first],
    )
    return join((counted, named))


def _reasons(rows: _Rows) -> Html:
    return table(
        _caption("What lies among the inputs and is no scan to upscale.", rows),
        (Column("What", number=False), Column("Why", number=False)),
        [(breakable(row.name), row.error or "") for row in rows.first],
    )


def _scans(rows: _Rows) -> Html:
    columns = (
        Column("Scan", number=False), Column("State", number=False), Column("Result", number=False), Column("Seconds"),
        Column("Residual", note="how far the result, scanned again, is from the scan, in its standard deviations"),
    )  # fmt: skip
    cells = [
        (
            breakable(row.name),
            _WORDS[row.state],
            breakable(row.output) if row.state == "done" and row.output else "",
            "" if row.total_seconds is None else f"{row.total_seconds:.1f}",
            "" if row.residual is None else f"{row.residual:.2g}",
        )
        for row in rows.first
    ]
    return table(_caption("In the order in which they were planned.", rows), columns, cells)


def _caption(text: str, rows: _Rows) -> str:
    return text if rows.count <= MOST_ROWS else f"{text} The first {MOST_ROWS} of {rows.count}; {MANIFEST} has all."


# --- pictures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Look:
    """A scan and its result. without: why they cannot be shown."""

    name: str
    scan: Volume | None = None
    result: Volume | None = None
    without: str | None = None


def _looks(out: Path, store: JobStore) -> Iterator[Look]:
    """Some of the scans that are done, spread evenly over all."""
    for job in store.sample("done", MOST_PICTURES):
        yield _look(out, job)


def _look(out: Path, job: Job) -> Look:
    task = Task.from_json(job.task)
    request = task.request
    modality = given_modality(request.modality)
    index = request.volume if isinstance(request.volume, int) else 0
    several = request.volume == "all"
    try:
        scan = read(
            task.path,
            volume=index if request.volume is not None else None,
            modality=modality,
            prefer=request.prefer,
            assume_spacing=request.assume_spacing,
            series=request.series if request.dicom_template is None else None,
            deskew=request.deskew and request.dicom_template is None,
            fill_gaps=request.fill_gaps and request.dicom_template is None,
        )
        result = read(out / task.output, volume=0 if several else None, modality=scan.modality)
    except (MedsrError, OSError) as error:
        return Look(job.name, without=str(error))
    return Look(job.name, scan, result)


def _pictures(looks: Sequence[Look]) -> Html:
    note = "The middle axial slices of some scans and of their results, in one window and at one size."
    return join((paragraph(note), *(_pair(look) for look in looks)))


def _pair(look: Look) -> Html:
    heading = tag("h3", None, breakable(look.name))
    if look.scan is None or look.result is None:
        return join((heading, paragraph(f"Cannot be shown: {look.without}")))
    window = display_window(look.scan.array, look.scan.modality)
    figures = []
    for caption, volume in (("scan", look.scan), ("result: AI SR, not acquired", look.result)):
        cut = oriented_slice(volume.array, volume.geometry, "axial")
        rows, columns = cut.values.shape
        shape = columns * cut.pixel_mm[1] / (rows * cut.pixel_mm[0])
        figures.append(still(cut.values, window, shape, caption, f"{caption}: the middle axial slice"))
    return join((heading, tag("div", {"class": "stills"}, *figures)))
