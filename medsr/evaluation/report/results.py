"""One or several studies as one set of results: methods with labels, outcomes by volume, protocol and method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medsr.errors import InputError
from medsr.evaluation.record import MethodFacts, Outcome, ProtocolFacts, Study, VolumeFacts, read_study
from medsr.image.files import display_name


@dataclass(frozen=True)
class Method:
    """A method of one study. label: its name, with the study's where several are on the page."""

    study: int
    facts: MethodFacts
    label: str


@dataclass(frozen=True, eq=False)
class Results:
    """Studies in the order in which they were made. folders: where each lies. labels: a short name of each."""

    studies: tuple[Study, ...]
    folders: tuple[Path, ...]
    labels: tuple[str, ...]

    @cached_property
    def protocols(self) -> tuple[ProtocolFacts, ...]:
        """Every protocol once, in the order of first appearance."""
        return tuple({p.name: p for study in self.studies for p in study.protocols}.values())

    @cached_property
    def volumes(self) -> dict[str, VolumeFacts]:
        """Every reference volume by its name."""
        return {v.name: v for study in self.studies for v in study.volumes}

    @cached_property
    def classical(self) -> tuple[Method, ...]:
        """Every classical method once: where several studies have it, the last one's figures are shown."""
        found = {}
        for index, study in enumerate(self.studies):
            found.update({m.name: Method(index, m, m.name) for m in study.methods if m.kind == "classical"})
        return tuple(found.values())

    @cached_property
    def rivals(self) -> tuple[Method, ...]:
        """medsr and methods that were brought along, of every study."""
        several = len(self.studies) > 1
        return tuple(
            Method(index, m, f"{m.name} ({self.labels[index]})" if several else m.name)
            for index, study in enumerate(self.studies)
            for m in study.methods
            if m.kind != "classical"
        )

    @cached_property
    def methods(self) -> tuple[Method, ...]:
        """All of them."""
        return (*self.classical, *self.rivals)

    @cached_property
    def headlines(self) -> tuple[Method, ...]:
        """Of each study the method that it is about: medsr with the least texture, else everything brought along."""
        found: list[Method] = []
        for index in range(len(self.studies)):
            own = [m for m in self.rivals if m.study == index]
            medsr = [m for m in own if m.facts.kind == "medsr"]
            found += [min(medsr, key=lambda m: m.facts.texture or 0.0)] if medsr else own
        return tuple(found)

    def outcome(self, volume: str, protocol: str, method: Method) -> Outcome | None:
        """What a method reached. A classical one is looked for in later studies first, and then in earlier ones."""
        places: Iterable[int] = (method.study,)
        if method.facts.kind == "classical":
            places = reversed(range(len(self.studies)))
        key = (volume, protocol, method.facts.name)
        return next((self._outcomes[place, *key] for place in places if (place, *key) in self._outcomes), None)

    def best_classical(self, volume: str, protocol: str, study: int) -> Outcome | None:
        """The classical method of the highest PSNR on this volume, in the same study."""
        names = [m.name for m in self.studies[study].methods if m.kind == "classical"]
        found = [self._outcomes.get((study, volume, protocol, name)) for name in names]
        scored = [o for o in found if o is not None and "psnr" in o.metrics]
        return max(scored, key=lambda o: o.metrics["psnr"], default=None)

    def volumes_under(self, protocol: str, *, phantoms: bool = False) -> list[VolumeFacts]:
        """The volumes that take part in a protocol, by modality and name; phantoms last, and only when asked for.

        Where there is nothing but phantoms, they are what the study is about.
        """
        names = {o.volume for study in self.studies for o in study.outcomes if o.protocol == protocol}
        found = [self.volumes[n] for n in names if phantoms or self.only_phantoms or not self.volumes[n].phantom]
        return sorted(found, key=lambda v: (v.phantom, v.modality == "CT", v.name))

    @cached_property
    def only_phantoms(self) -> bool:
        """Whether nobody was scanned."""
        return all(volume.phantom for volume in self.volumes.values())

    @cached_property
    def phantoms_in_words(self) -> str:
        """What a caption must add about phantoms, after a comma; nothing where there are none."""
        if self.only_phantoms:
            return ", all of them phantoms"
        return ", phantoms left out" if any(volume.phantom for volume in self.volumes.values()) else ""

    @cached_property
    def _outcomes(self) -> dict[tuple[int, str, str, str], Outcome]:
        return {
            (index, o.volume, o.protocol, o.method): o
            for index, study in enumerate(self.studies)
            for o in study.outcomes
        }


def read_results(folders: Sequence[Path]) -> Results:
    """The studies in ``folders``, oldest first.

    Raises InputError for a folder that is no study, for one given twice, and for studies that call different things
    by one name: references of another content, or other degradations.
    """
    found = sorted(((read_study(folder), folder) for folder in folders), key=lambda pair: pair[0].created)
    studies = tuple(study for study, _ in found)
    places = tuple(folder if folder.is_dir() else folder.parent for _, folder in found)
    for number, study in enumerate(studies):
        _check_names(study, places[number])
        for earlier, place in zip(studies[:number], places, strict=False):
            _check_pair(earlier, place, study, places[number])
    return Results(studies, places, _labels(studies, places))


def _check_names(study: Study, place: Path) -> None:
    """Refuse outcomes of what the study does not describe."""
    volumes, protocols = {v.name for v in study.volumes}, {p.name for p in study.protocols}
    methods = {m.name for m in study.methods}
    for outcome in study.outcomes:
        for name, known in ((outcome.volume, volumes), (outcome.protocol, protocols), (outcome.method, methods)):
            if name not in known:
                raise InputError(f"the study {display_name(place)} has an outcome of {name!r}, which it does not "
                                 "describe; run evaluate again")  # fmt: skip


def _check_pair(first: Study, first_place: Path, second: Study, second_place: Path) -> None:
    if first == second:
        raise InputError(f"{display_name(first_place)} and {display_name(second_place)} hold the same study; give each "
                         "study once")  # fmt: skip
    names = f"{display_name(first_place)} and {display_name(second_place)}"
    hashes = {v.name: v.sha256 for v in first.volumes}
    for volume in second.volumes:
        if hashes.get(volume.name, volume.sha256) != volume.sha256:
            raise InputError(f"the reference {volume.name!r} is another file in {names} (sha256 differs), so their "
                             "figures cannot stand side by side; evaluate both on the same files")  # fmt: skip
    facts = {p.name: p for p in first.protocols}
    for protocol in second.protocols:
        if facts.get(protocol.name, protocol) != protocol:
            raise InputError(f"the protocol {protocol.name!r} is not the same degradation in {names}; evaluate both "
                             "with one version of medsr")  # fmt: skip


def _labels(studies: Sequence[Study], places: Sequence[Path]) -> tuple[str, ...]:
    """The shortest kind of name that tells the studies apart: version, hash, folder, number."""
    models = [study.model for study in studies]
    candidates = (
        [f"{m.name} {m.version}" if m else "no model" for m in models],
        [f"{m.name} {m.version} {m.sha256[:8]}" if m else "no model" for m in models],
        [place.resolve().name for place in places],
        [study.title for study in studies],
    )
    for names in candidates:
        if len(set(names)) == len(names):
            return tuple(names)
    return tuple(f"study {number}" for number in range(1, len(studies) + 1))
