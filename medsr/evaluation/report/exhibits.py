"""The cases that a report shows: worst, median and best of each protocol, cut so that the page stays small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medsr.evaluation.casefile import Case, case_path, read_case
from medsr.evaluation.record import ProtocolFacts
from medsr.evaluation.report.findings import Pair, decimal, pairs_of, shown_name
from medsr.evaluation.report.results import Method, Results
from medsr.page.markup import Html
from medsr.page.viewer import BYTES_PER_VOXEL, Exhibit, Picture, middle, viewer

VIEWERS_BYTES = 12_000_000  # of the page's 15 MB; the rest is for tables and plots
MOST_VIEWERS = 10
_WORLD = ("RL", "AP", "SI")
_LABELS = {"scan": "scan, nearest", "cubic": "cubic", "reference": "reference", "std": "stated deviation"}


@dataclass(frozen=True)
class Choice:
    """A case to be shown, and why it is."""

    protocol: ProtocolFacts
    pair: Pair
    method: Method
    why: str


def viewers(results: Results) -> dict[str, list[Html]]:
    """Viewers by protocol: worst cases of all protocols first, then the best, then the median, while there is room."""
    chosen = _choices(results)[:MOST_VIEWERS]
    made: dict[str, list[Html]] = {}
    room = VIEWERS_BYTES
    for number, choice in enumerate(chosen):
        share = room // (len(chosen) - number)
        shown = _viewer(results, choice, share)
        if len(shown) > 1.05 * share:  # it packs worse than most: cut it by as much
            shown = _viewer(results, choice, int(share * share / len(shown)))
        if len(shown) <= room:
            room -= len(shown)
            made.setdefault(choice.protocol.name, []).append(shown)
    return made


def _choices(results: Results) -> list[Choice]:
    by_rank: dict[str, list[Choice]] = {"worst": [], "best": [], "median": []}
    for protocol in results.protocols:
        found = next((f for m in reversed(results.headlines) if (f := _ranked(results, protocol, m))), None)
        if found is None:
            continue
        method, pairs = found
        places = {"worst": 0, "best": len(pairs) - 1, "median": (len(pairs) - 1) // 2}
        taken: set[int] = set()
        for why, place in places.items():
            if place not in taken:
                taken.add(place)
                by_rank[why].append(Choice(protocol, pairs[place], method, why if len(pairs) > 1 else "only"))
    return [choice for choices in by_rank.values() for choice in choices]


def _ranked(results: Results, protocol: ProtocolFacts, method: Method) -> tuple[Method, list[Pair]] | None:
    """The volumes that left a case, the least gain first."""
    folder = results.folders[method.study]
    pairs = pairs_of(results, protocol.name, method)
    left = [p for p in pairs if case_path(folder, protocol.name, p.volume.name).is_file()]
    return (method, sorted(left, key=_rank)) if left else None


def _rank(pair: Pair) -> float:
    """Gain, or PSNR where nothing was measured beside the method."""
    return pair.gain if math.isfinite(pair.gain) else pair.outcome.metrics.get("psnr", 0.0)


def _viewer(results: Results, choice: Choice, most_bytes: int) -> Html:
    volume, protocol = choice.pair.volume, choice.protocol
    case = read_case(case_path(results.folders[choice.method.study], protocol.name, volume.name))
    pictures = _pictures(results, choice, case)
    through = case.slice_axis if protocol.axes == "in-plane" else None
    crop = middle(case.shape, int(most_bytes / (BYTES_PER_VOXEL * len(pictures))), through)
    cut = tuple(Picture(p.name, p.label, p.array[crop], p.kind) for p in pictures)
    names = {p.name for p in cut}
    left = next(n for n in ("cubic", "scan", *names) if n in names)
    right = next(n for n in ("medsr", "reference", *names) if n in names)
    still = _still_plane(case.axes, case.slice_axis, across=protocol.axes == "in-plane")
    exhibit = Exhibit(cut, case.spacing, case.axes, volume.modality, left, right, still)
    return viewer(exhibit, _caption(choice, cut[0].array.shape))


def _caption(choice: Choice, shape: Sequence[int]) -> str:
    pair = choice.pair
    rank = {"worst": "Worst case", "best": "Best case", "median": "Median case", "only": "The case"}[choice.why]
    gain = f", gain {decimal(pair.gain, 2, signed=True)} dB over {pair.rival.method}" if pair.rival else ""
    psnr = decimal(pair.outcome.metrics.get("psnr"), 2)
    volume = f"{shown_name(pair.volume.name)} ({pair.volume.modality})"
    return (
        f"{rank} of {choice.protocol.name}: {volume}, {choice.method.label} {psnr} dB{gain}. The"
        f" middle {' x '.join(map(str, shape))} voxels of the volume; AI SR, not acquired."
    )


def _pictures(results: Results, choice: Choice, case: Case) -> list[Picture]:
    """The pictures of a case, and what other studies made of the same reference."""
    made = _of_study(results, choice.method.study, case, first=True)
    for index in range(len(results.studies)):
        path = case_path(results.folders[index], choice.protocol.name, choice.pair.volume.name)
        if index != choice.method.study and path.is_file():
            other = read_case(path)
            if _same_reference(case, other):
                made += _of_study(results, index, other, first=False)
    # Images first, so that the maps stand behind them; what belongs together stays together.
    return sorted(made, key=lambda p: p.kind != "image")


def _of_study(results: Results, study: int, case: Case, *, first: bool) -> list[Picture]:
    """first: the study whose scan, cubic and reference are shown too."""
    own = [m for m in results.rivals if m.study == study and m.facts.kind == "medsr"]
    textures = sorted(own, key=lambda m: m.facts.texture or 0.0)
    labels = dict(_LABELS)
    if textures:
        labels |= {"medsr": textures[0].label, "sample": textures[-1].label}
    several = f" ({results.labels[study]})" if len(results.studies) > 1 else ""
    labels["std"] += several
    suffix = "" if first else f"-{study}"
    return [
        Picture(name + suffix, labels.get(name, name), image, "std" if name == "std" else "image")
        for name, image in case.images.items()
        if first or name in ("medsr", "sample", "std")
    ]


def _same_reference(case: Case, other: Case) -> bool:
    one, two = case.images.get("reference"), other.images.get("reference")
    if one is None or two is None or one.shape != two.shape:
        return False
    return bool(np.allclose(one, two, rtol=1e-3, atol=1e-3 * float(np.abs(one).max())))


def _still_plane(axes: str | None, slice_axis: int, *, across: bool) -> int:
    """The plane in which the still pictures show what was restored: across the slice axis, or along it.

    Returns 0 axial, 1 coronal, 2 sagittal: the plane across patient axis 2, 1 or 0.
    """
    world = slice_axis if axes is None else next(n for n, pair in enumerate(_WORLD) if axes[slice_axis] in pair)
    if across:
        return 2 - world
    return 1 if world == 2 else 0
