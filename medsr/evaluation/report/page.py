"""``report.html``: the answer, the figures behind it and the images behind those, in one file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from medsr.evaluation.record import ProtocolFacts, Study
from medsr.evaluation.report import plots, tables
from medsr.evaluation.report.exhibits import viewers
from medsr.evaluation.report.findings import MISSING, Finding, findings
from medsr.evaluation.report.results import Method, Results, read_results
from medsr.evaluation.report.sentences import answer, cautions, origin
from medsr.evaluation.report.side_by_side import comparison
from medsr.image.files import atomic_write
from medsr.page.chart import charts
from medsr.page.markup import Column, Html, breakable, details, paragraph, table, tag
from medsr.page.shell import HONESTY, MADE, facts, limits, navigation, page, section, warning

_LIMITS = (
    "The coarse scans of named protocols are simulated from fine ones. They are kinder than real ones: no motion "
    "between slices, no slice cross-talk, and the profile is the one that is stated.",
    "A reference has noise and artefacts of its own. Agreement with it is not truth, and a mean over mostly healthy "
    "anatomy says nothing about one lesion.",
)

_READING = (
    ("PSNR", "10 log10(range\N{SUPERSCRIPT TWO} / mean squared error) over the foreground. The range comes from the "
             "reference: its minimum to its 99.9th percentile (MR), 4095 HU (CT). Predictions are never clipped. One "
             "dB more is a fifth less squared error."),
    ("gain", "PSNR of the method minus that of the best classical method on the same volume."),
    ("best classical", "of all classical methods measured, the one with the highest PSNR on that volume; each is told "
                       "exactly what medsr is told."),
    ("SSIM", "structural similarity in 3-D, Gaussian window of 11 voxels; in 2-D per slice, with an asterisk, where a "
             "volume is thinner than the window."),
    ("spectrum error", "mean difference of the power spectrum from the reference's, in dB, over the frequencies that "
                       "the scan could not hold."),
    ("HFEN", "high-frequency error norm: how much of the edges is missed."),
    ("between slices", "power of differences of neighbouring slices over the reference's; above 1: flicker."),
    ("certificate", "what the result, degraded again, differs from the scan by, over the scan's standard deviation."),
    ("coverage", "share of the foreground in which the reference lies within the stated 90 % interval."),
    ("95 % interval, p", "bootstrap of the mean over subjects; Wilcoxon signed-rank test over subjects. Scans of one "
                         "subject count as one."),
)  # fmt: skip


def write_report(folders: Sequence[Path], out: Path, *, overwrite: bool = False) -> str:
    """Write the report of one study, or of several side by side, as one HTML file; returns its answer in words.

    folders: of ``evaluate`` or ``compare``, each with a metrics.json and perhaps cases for the viewer. Raises
    InputError for what is no study and for studies that do not fit one another, PlanError when ``out`` exists and
    may not be replaced, JobError when it cannot be written.
    """
    results = read_results(folders)
    html = report(results)
    with atomic_write(out, overwrite=overwrite) as stream:
        stream.write(html.encode())
    return answer(findings(results), results)


def report(results: Results) -> Html:
    """The whole page."""
    found = findings(results)
    title = " and ".join(dict.fromkeys(study.title for study in results.studies))
    shown = viewers(results)
    sections = [("models", "Models side by side")] if len(results.studies) > 1 else []
    sections += [(tables.anchor(p), p.name) for p in results.protocols]
    sections += [("excluded", "Left out"), ("limits", "Limits"), ("origin", "Origin")]
    header = [
        paragraph(tag("span", {"class": "soft"}, "; ".join(origin(study) for study in results.studies))),
        tag("p", {"class": "answer"}, answer(found, results)),
        tables.key_table(found, results) if found else "",
        warning("Before you quote this", notes) if (notes := cautions(found, results)) else "",
        navigation(sections),
    ]
    body = [
        details("How to read the figures", facts(_READING)),
        comparison(results),
        *(_protocol(results, protocol, found, shown.get(protocol.name, [])) for protocol in results.protocols),
        _excluded(results),
        limits(_LIMITS),
        section("Origin", "origin", *(_origin(study, label, results) for study, label in _labelled(results))),
    ]
    return page(title, header, body, f"Made by medsr. {HONESTY} {MADE}")


def _protocol(results: Results, protocol: ProtocolFacts, found: Sequence[Finding], shown: Sequence[Html]) -> Html:
    """Everything about one degradation."""
    own = [one for one in found if one.protocol.name == protocol.name]
    if not own and not results.volumes_under(protocol.name, phantoms=True):
        return section(
            protocol.name, tables.anchor(protocol), paragraph(protocol.text), paragraph("No volume took part.")
        )
    heads = _present(results, protocol, results.headlines)
    figures = [
        plots.distribution(results, protocol),
        plots.gain_by_subject(results, protocol, heads),
        plots.gain_by_spacing(results, protocol, heads),
        plots.spectra(results, protocol),
        plots.reliability(results, protocol),
        plots.bias(results, protocol),
        plots.cost(results, protocol),
    ]
    return section(
        protocol.name,
        tables.anchor(protocol),
        paragraph(protocol.text),
        *(paragraph(answer([one], results)) for one in own),
        *tables.method_tables(results, protocol),
        charts(figures),
        *(tables.volume_table(results, protocol, method) for method in heads),
        tables.bias_table(results, protocol, heads),
        tables.every_psnr(results, protocol),
        _warnings(results, protocol),
        tag("h3", None, f"Cases under {protocol.name}") if shown else "",
        _USE if shown else "",
        *shown,
    )


_USE = tag(
    "p",
    {"class": "soft"},
    "Drag in an image to move the divider; the wheel, or the up and down keys, go through the slices; the left and "
    "right keys move the divider; a double click goes to that place in the other planes.",
)


def _present(results: Results, protocol: ProtocolFacts, methods: Iterable[Method]) -> list[Method]:
    """The methods that were measured under the protocol."""
    names = [volume.name for volume in results.volumes_under(protocol.name, phantoms=True)]
    return [m for m in methods if any(results.outcome(name, protocol.name, m) for name in names)]


def _warnings(results: Results, protocol: ProtocolFacts) -> Html:
    """What measuring found suspicious, above all predictions that lie beside their reference."""
    several = len(results.studies) > 1
    items = [
        f"{o.volume}, {o.method}{f' ({label})' if several else ''}: {text}"
        for study, label in _labelled(results)
        for o in study.outcomes
        if o.protocol == protocol.name
        for text in o.warnings
    ]
    return warning(f"Warnings under {protocol.name}", items) if items else Html("")


def _excluded(results: Results) -> Html:
    rows = [
        [breakable(e.volume), e.protocol, e.reason, *([label] if len(results.studies) > 1 else [])]
        for study, label in _labelled(results)
        for e in study.excluded
    ]
    if not rows:
        return section("Left out", "excluded", paragraph("No volume was left out of any protocol."))
    columns = [Column(name, number=False) for name in ("volume", "protocol", "reason")]
    columns += [Column("study", number=False)] if len(results.studies) > 1 else []
    return section("Left out", "excluded", table("Volumes that a protocol does not admit, and why.", columns, rows))


def _origin(study: Study, label: str, results: Results) -> Html:
    """What is needed to judge a study and to repeat it."""
    model = study.model
    pairs: list[tuple[str, object]] = [
        ("made", study.created),
        ("command", tag("code", None, study.command)),
        ("split", study.split or "none"),
        ("model", f"{model.name} {model.version}, sha256 {model.sha256}" if model else "none"),
        ("seed", str(study.seed)),
        ("versions", ", ".join(f"{name} {version}" for name, version in study.versions.items())),
    ]
    heading = tag("h3", None, label) if len(results.studies) > 1 else ""
    return tag("div", None, heading, facts(pairs), _methods(study), _volumes(study))


def _methods(study: Study) -> Html:
    rows = [[m.name, m.kind, MISSING if m.texture is None else f"{m.texture:g}", m.text] for m in study.methods]
    columns = [Column(n, number=n == "texture") for n in ("method", "kind", "texture", "what it does")]
    return details(f"Methods ({len(rows)})", table("Every method and what it is told.", columns, rows))


def _volumes(study: Study) -> Html:
    rows = [
        [breakable(v.name), v.subject, v.modality + (", phantom" if v.phantom else ""), " x ".join(map(str, v.shape)),
         " x ".join(f"{s:.4g}" for s in v.spacing), "ijk"[v.slice_axis], tag("code", None, v.sha256[:16])]
        for v in study.volumes
    ]  # fmt: skip
    names = ("volume", "subject", "scans", "voxels", "spacing, mm", "slices along", "sha256, first 16 digits")
    columns = [Column(name, number=False) for name in names]
    return details(f"References ({len(rows)})", table("The reference volumes.", columns, rows))


def _labelled(results: Results) -> list[tuple[Study, str]]:
    return list(zip(results.studies, results.labels, strict=True))
