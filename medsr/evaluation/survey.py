"""Which volumes of a manifest take part in which protocols, as far as headers tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medsr.card import ModelCard
from medsr.errors import InputError
from medsr.evaluation.grids import checked_turn
from medsr.evaluation.manifest import Entry
from medsr.evaluation.methods import file_of
from medsr.evaluation.record import Exclusion
from medsr.evaluation.request import StudyRequest
from medsr.image.acquired import Sharpness
from medsr.image.header import Header
from medsr.image.nifti import inspect
from medsr.image.volume import Modality
from medsr.protocols import Protocol


@dataclass(frozen=True, eq=False)
class Candidate:
    """A volume and the protocols that may have it for a reference; of modality and sharpness the voxels may say more.

    modality: None where only the voxels can tell.
    """

    entry: Entry
    header: Header
    modality: Modality | None
    protocols: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Survey:
    """candidates: in the order of the manifest. excluded: with reasons. failed: names of files that cannot be read."""

    candidates: tuple[Candidate, ...]
    excluded: tuple[Exclusion, ...]
    failed: tuple[str, ...]


def survey(entries: Sequence[Entry], request: StudyRequest, rules: Mapping[str, Protocol], card: ModelCard) -> Survey:
    """Look at headers, until ``request.limit`` volumes take part.

    Raises InputError when nothing takes part, and where a file to compare with lies on another grid.
    """
    candidates: list[Candidate] = []
    excluded: list[Exclusion] = []
    failed: list[str] = []
    for entry in entries:
        if request.limit is not None and len(candidates) >= request.limit:
            break
        try:
            header = inspect(entry.path)
        except InputError as error:
            failed.append(entry.name)
            excluded += [Exclusion(volume=entry.name, protocol=name, reason=str(error)) for name in rules]
            continue
        modality = entry.modality or header.modality
        foreign = header.foreign if entry.modality is None else None
        reasons = {
            name: f"it is no MR or CT image: {foreign}"
            if foreign
            else unfit(header, modality, rule, card, entry.sharpness)
            for name, rule in rules.items()
        }
        excluded += [Exclusion(volume=entry.name, protocol=n, reason=r) for n, r in reasons.items() if r is not None]
        admitting = tuple(name for name, reason in reasons.items() if reason is None)
        if admitting:
            candidates.append(Candidate(entry, header, modality, admitting))
    if not candidates:
        first = next((f": {e.volume}: {e.reason}" for e in excluded), "")
        raise InputError(f"none of the {len(entries)} volumes can be a reference of {', '.join(rules)}{first}")
    excluded += _missing(candidates, request)
    return Survey(tuple(candidates), tuple(excluded), tuple(failed))


def unfit(
    header: Header, modality: Modality | None, rule: Protocol, card: ModelCard, sharpness: Sequence[Sharpness] = ()
) -> str | None:
    """Why a volume takes no part in a protocol; None where it does. modality: None where the voxels will tell."""
    if header.volumes > 1:
        return f"it holds {header.volumes} volumes; a reference is one 3-D volume"
    if modality is not None and modality not in card.modalities:
        return f"model {card.name} was trained on {' and '.join(card.modalities)}, and this is {modality}"
    return rule.unfit(header.geometry, modality or rule.modalities[0], header.slice_axis, sharpness)


def _missing(candidates: Sequence[Candidate], request: StudyRequest) -> list[Exclusion]:
    """The files that other tools were to have made and did not; those that are there lie on the reference's grid."""
    gone = []
    for candidate in candidates:
        for name, folder in request.compare:
            for protocol in candidate.protocols:
                path = file_of(folder, protocol, candidate.entry.name)
                if path is None:
                    reason = f"{name}: no file of that name in {folder.name}/{protocol} or {folder.name}"
                    gone.append(Exclusion(volume=candidate.entry.name, protocol=protocol, reason=reason))
                else:
                    checked_turn(path, candidate.header.geometry, candidate.entry.name)
    return gone
