"""``summary.html``: how a batch went, on one page that loads nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from medsr.errors import MedsrError
from medsr.image.files import atomic_write
from medsr.image.render import display_window, oriented_slice
from medsr.image.scan import read
from medsr.image.volume import Modality, Volume
from medsr.page.markup import Column, Html, breakable, join, paragraph, table, tag
from medsr.page.shell import HONESTY, MADE, facts, limits, navigation, page, section, warning
from medsr.page.viewer import still
from medsr.service.jobs import Job, JobStore
from medsr.service.manifest import MANIFEST, TABLE, Row
from medsr.service.place import Place
from medsr.service.tasks import Task

PAGE = "summary.html"
MOST_PICTURES = 8  # scans that are shown; reading them again takes as long as reading them the first time
MOST_ROWS = 200  # of a table on the page; the manifest has all
_WORDS = {"done": "done", "failed": "failed", "parked": "parked", "skipped": "left out", "queued": "waiting",
          "running": "running"}  # fmt: skip


def write_summary(place: Place, store: JobStore, rows: Sequence[Row]) -> None:
    """Write the page. rows: of all parts, as ``write_manifest`` gave them. store: of this part, for the pictures."""
    with atomic_write(place.out / PAGE, overwrite=True) as stream:
        stream.write(summary_page(rows, _looks(place.out, store)).encode())


def summary_page(rows: Sequence[Row], looks: Iterable[Look]) -> Html:
    """The page of a batch."""
    trouble = [row for row in rows if row.state in ("failed", "parked")]
    left_out = [row for row in rows if row.state == "skipped"]
    pictures = list(looks)
    sections = [
        ("pace", "Pace", _pace(rows), bool(_done(rows))),
        ("failures", "What failed, by reason", _failures(trouble), bool(trouble)),
        ("left-out", "What was left out", _reasons(left_out), bool(left_out)),
        ("look", "Look", _pictures(pictures), bool(pictures)),
        ("scans", "Scans", _scans(rows), True),
    ]
    shown = [(identity, title, content) for identity, title, content, there in sections if there]
    header = [
        tag("p", {"class": "answer"}, in_words(rows)),
        warning(f"No result: {len(trouble)} of {len(rows)}.") if trouble else "",
        navigation([(identity, title) for identity, title, _ in shown] + [("limits", "Limits")]),
    ]
    body = [section(title, identity, content) for identity, title, content in shown]
    footer = f"Made by medsr from the list of jobs. All of it is in {MANIFEST} and {TABLE}. {HONESTY} {MADE}"
    return page("Batch", header, [*body, limits()], footer)


def in_words(rows: Iterable[Row]) -> str:
    """``12 scans: 10 done, 1 failed, 1 left out``."""
    count = Counter(row.state for row in rows)
    parts = [f"{count[state]} {word}" for state, word in _WORDS.items() if count[state]]
    total = count.total()
    return f"{total} {'scan' if total == 1 else 'scans'}: {', '.join(parts)}" if parts else "no scans"


# --- figures ---------------------------------------------------------------------------------------------------------


def _done(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.state == "done" and row.started is not None and row.finished is not None]


def busy_seconds(rows: Iterable[Row]) -> float:
    """Time in which at least one scan was being worked on: pauses between runs do not count."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted((row.started or 0.0, row.finished or 0.0) for row in _done(rows)):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def _pace(rows: Sequence[Row]) -> Html:
    done = _done(rows)
    if not done:
        return Html("")
    busy = busy_seconds(done)
    stages: dict[str, float] = {}
    for row in done:
        for stage, seconds in row.seconds.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    residuals = [row.residual for row in done if row.residual is not None]
    pairs: list[tuple[str, object]] = [
        ("Finished", _moment(max(row.finished or 0.0 for row in done))),
        ("At work", f"{busy:.0f} s, without pauses between runs"),
        ("Throughput", f"{_rate(3600 * len(done) / busy)} scans an hour" if busy > 0 else "not measured"),
        ("Seconds of a scan", ", ".join(f"{name} {s / len(done):.2f}" for name, s in stages.items()) + " (means)"),
        ("Scans tried more than once", str(sum(row.attempts > 1 for row in done))),
    ]
    if residuals:
        pairs.append(("Largest residual", f"{max(residuals):.2g} of a scan's standard deviation"))
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


def _failures(rows: Sequence[Row]) -> Html:
    how_many = Counter((row.exit_code, _reason(row)) for row in rows)
    counted = table(
        "Reasons, the most frequent first. Exit codes are those of the command line.",
        (Column("Scans"), Column("Exit code"), Column("Reason", number=False)),
        [(str(n), "" if code is None else str(code), reason) for (code, reason), n in how_many.most_common(MOST_ROWS)],
    )
    named = table(
        _caption("Every scan without a result.", rows),
        (Column("Scan", number=False), Column("State", number=False), Column("Attempts"), Column("Why", number=False)),
        [(breakable(r.name), _WORDS[r.state], str(r.attempts), r.error or "") for r in rows[:MOST_ROWS]],
    )
    return join((counted, named))


def _reasons(rows: Sequence[Row]) -> Html:
    return table(
        _caption("What lies among the inputs and is no scan to upscale.", rows),
        (Column("What", number=False), Column("Why", number=False)),
        [(breakable(row.name), row.error or "") for row in rows[:MOST_ROWS]],
    )


def _scans(rows: Sequence[Row]) -> Html:
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
        for row in rows[:MOST_ROWS]
    ]
    return table(_caption("In the order in which they were planned.", rows), columns, cells)


def _caption(text: str, rows: Sequence[Row]) -> str:
    return text if len(rows) <= MOST_ROWS else f"{text} The first {MOST_ROWS} of {len(rows)}; {MANIFEST} has all."


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
    count = store.counts().done
    step = max(1, -(-count // MOST_PICTURES))
    for number, job in enumerate(store.jobs(["done"])):
        if number % step == 0:
            yield _look(out, job)


def _look(out: Path, job: Job) -> Look:
    task = Task.from_json(job.task)
    request = task.request
    modality: Modality | None = None if request.modality == "auto" else "CT" if request.modality == "ct" else "MR"
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
