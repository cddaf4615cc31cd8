"""``medsr evaluate``: degrade each reference, bring the scan back by every method, compare, one volume at a time."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version

from medsr import __version__
from medsr.card import read_card
from medsr.errors import JobError, PlanError
from medsr.evaluation.bench import Bench, Design
from medsr.evaluation.comparison import compare_volume
from medsr.evaluation.journal import Journal, open_journal
from medsr.evaluation.manifest import read_manifest
from medsr.evaluation.pace import Pace
from medsr.evaluation.record import Exclusion, ModelFacts, ProtocolFacts, Study, write_study
from medsr.evaluation.report.findings import findings
from medsr.evaluation.report.page import write_report
from medsr.evaluation.report.results import read_results
from medsr.evaluation.report.sentences import answer
from medsr.evaluation.request import StudyRequest, check_study
from medsr.evaluation.survey import survey
from medsr.run import Progress, load_for

WORK = ".work"  # folder for files that nobody keeps, inside the study's own: a killed study's are found again
_PACKAGES = ("torch", "monai", "numpy", "scipy", "scikit-image")


@dataclass(frozen=True, eq=False)
class Evaluated:
    """study: as written to ``metrics.json``. failed: names of volumes that could not be read or upscaled."""

    study: Study
    failed: tuple[str, ...]


def evaluate(
    data: Path,
    out: Path,
    request: StudyRequest,
    *,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> Evaluated:
    """Measure every method on every volume of ``data`` that the protocols admit, and write all of it to ``out``.

    ``out`` receives outcomes.jsonl as the study goes on, then metrics.json, metrics.csv and report.html; cases/ holds
    pieces of images for the report, volumes/ whole ones if they are to be kept. command: as it was typed, for the
    record. A volume that cannot be read or upscaled is left out with the reason. Raises the kinds of medsr.errors.
    """
    card = read_card(request.model)
    check_study(request, card)
    if data.is_dir() and out.resolve() == data.resolve():
        raise PlanError(f"--out {out} is the data folder itself; choose another one")
    rules = request.rules()
    surveyed = survey(read_manifest(data, request.split), request, rules, card)
    design = Design(request, rules, request.methods(), card, surveyed)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with open_journal(out, design.identity(), now, resume=resume, overwrite=overwrite) as journal:
        failed = _measure(design, journal, out, progress)
        title = f"{card.name} {card.version} on {data.resolve().name}" + (f", {request.split}" if request.split else "")
        study = _study(design, journal, failed, title=title, command=command)
        write_study(study, out)
        write_report([out], out / "report.html", overwrite=True)
    return Evaluated(study, tuple(dict.fromkeys((*surveyed.failed, *(e.volume for e in failed)))))


def _measure(design: Design, journal: Journal, out: Path, progress: Progress | None) -> list[Exclusion]:
    """Everything that the journal does not know yet; what failed, with the reasons."""
    left = {c.entry.name: missing for c in design.survey.candidates if (missing := design.missing(c, journal))}
    candidates = [c for c in design.survey.candidates if c.entry.name in left]
    if not candidates:
        return []
    work = sum(design.work(c, methods) for c in candidates for methods in left[c.entry.name].values())
    model = load_for(design.request.upscaling(0.0, design.card))
    failed: list[Exclusion] = []
    with _work_folder(out) as folder:
        bench = Bench(design, model, journal, out, folder, Pace(work, progress))
        for candidate in candidates:
            failed += compare_volume(candidate, left[candidate.entry.name], bench)
    return failed


@contextlib.contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Inside the study's own folder, whose lock is held: what a killed study left there is removed."""
    folder = out / WORK
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
    except OSError as error:
        raise JobError(f"cannot make the folder {folder}: {error.strerror}; choose another --out") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _study(design: Design, journal: Journal, failed: Sequence[Exclusion], *, title: str, command: str) -> Study:
    """All that is known, in the order of manifest, protocols and methods, however often it was interrupted."""
    card, request = design.card, design.request
    names = [c.entry.name for c in design.survey.candidates]
    keys = ((n, p, m.name) for n in names for p in design.rules for m in design.methods)
    splits = {c.entry.split for c in design.survey.candidates}
    return Study(
        title=title,
        created=journal.created,
        command=command,
        split=splits.pop() if len(splits) == 1 else None,
        versions={"medsr": __version__, "python": python_version(), **{name: version(name) for name in _PACKAGES}},
        model=ModelFacts(name=card.name, version=card.version, sha256=card.sha256),
        seed=request.seed,
        protocols=tuple(
            ProtocolFacts(name=name, axes=rule.axes, factor=rule.factor, text=rule.text)
            for name, rule in design.rules.items()
        ),
        methods=design.methods,
        volumes=tuple(journal.volumes[name] for name in names if name in journal.volumes),
        outcomes=tuple(journal.outcomes[key] for key in keys if key in journal.outcomes),
        excluded=(*design.survey.excluded, *journal.excluded.values(), *failed),
        noise_ceiling={name: journal.ceilings[name] for name in names if name in journal.ceilings},
    )


def in_words(done: Evaluated, out: Path) -> str:
    """The answer, the gain of each protocol, what was left out, and where the report lies."""
    results = read_results([out])
    found = findings(results)
    lines = [answer(found, results)]
    for one in found:
        if (gain := one.gain) is not None:
            interval = f"{gain.low:+.2f} to {gain.high:+.2f}" if gain.subjects > 1 else "one subject"
            lines.append(f"  {one.name}: {gain.mean:+.2f} dB ({interval}), closer on {gain.wins} of {gain.n}")
    if done.study.excluded:
        lines.append(f"left out: {len(done.study.excluded)} of volume and protocol, with the reasons in the report")
    return "\n".join([*lines, f"report: {out / 'report.html'}"])
