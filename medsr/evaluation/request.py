"""What a study is asked for: protocols, methods, and how medsr itself is to be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medsr.card import ModelCard
from medsr.classical import METHODS
from medsr.errors import ConfigError
from medsr.evaluation.record import MethodFacts
from medsr.protocols import Protocol, protocol
from medsr.request import Request, SamplerName, check_request


@dataclass(frozen=True)
class StudyRequest:
    """The options of ``medsr evaluate``. compare: (name, folder) of files that other tools made; limit: volumes.

    textures: one method of medsr each. baselines: names of medsr.classical.METHODS.
    """

    protocols: tuple[str, ...]
    split: str | None = None
    textures: tuple[float, ...] = (0.0,)
    baselines: tuple[str, ...] = tuple(METHODS)
    compare: tuple[tuple[str, Path], ...] = ()
    limit: int | None = None
    steps: int = Request.steps
    sampler: SamplerName = Request.sampler
    seed: int = Request.seed
    model: str = Request.model
    device: str = Request.device
    threads: int | None = None
    keep_volumes: bool = False

    def upscaling(self, texture: float, card: ModelCard) -> Request:
        """How one scan is upscaled. The mean also states its uncertainty where the model can; it stays the mean."""
        can_state = card.has_sampler or bool(card.calibration)
        return Request(
            texture=texture,
            uncertainty=texture == 0 and can_state,
            steps=self.steps,
            sampler=self.sampler,
            seed=self.seed,
            model=self.model,
            device=self.device,
            threads=self.threads,
        )

    def rules(self) -> dict[str, Protocol]:
        """The protocols by name. Raises ConfigError for an unknown one."""
        return {name: protocol(name) for name in self.protocols}

    def methods(self) -> tuple[MethodFacts, ...]:
        """Every method in the order of tables: classical ones, medsr, what was brought along."""
        classical = [MethodFacts(name=n, kind="classical", text=t) for n, t in METHODS.items() if n in self.baselines]
        own = [
            MethodFacts(name=name_of(t), kind="medsr", text=_texture_in_words(t), texture=t)
            for t in sorted(self.textures)
        ]
        other = [MethodFacts(name=n, kind="other", text=f"files of {folder.name}") for n, folder in self.compare]
        return (*classical, *own, *other)


def name_of(texture: float) -> str:
    """``medsr`` is the mean; ``medsr sample`` has all the texture there is."""
    if texture == 0:
        return "medsr"
    return "medsr sample" if texture == 1 else f"medsr texture {texture:g}"


def _texture_in_words(texture: float) -> str:
    if texture == 0:
        return "posterior mean (texture 0)"
    return "one sample of the posterior (texture 1)" if texture == 1 else f"mean with texture {texture:g} of a sample"


def baselines_by_name(text: str) -> tuple[str, ...]:
    """``all``, ``none`` or names with commas between, whatever their case and blanks. Raises ConfigError."""
    if text.strip().lower() in ("all", "none"):
        return tuple(METHODS) if text.strip().lower() == "all" else ()
    known = {_plain(name): name for name in METHODS}
    wanted = [part for part in text.split(",") if part.strip()]
    if not wanted or (unknown := [p.strip() for p in wanted if _plain(p) not in known]):
        named = ", ".join(unknown) if wanted else text
        raise ConfigError(f"--baselines {named!r} is no classical method; there are: all, none, {', '.join(METHODS)}")
    chosen = {known[_plain(part)] for part in wanted}
    return tuple(name for name in METHODS if name in chosen)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def check_study(request: StudyRequest, card: ModelCard) -> None:
    """Refuse what cannot be meant (ConfigError), or what the model has not (PlanError)."""
    if not request.protocols:
        raise ConfigError("--protocol names no protocol; give one or more with commas between, such as inplane-x2")
    for what, values in (("--protocol", request.protocols), ("--texture", request.textures)):
        if twice := _twice(values):
            raise ConfigError(f"{what} names {twice[0]} twice")
    request.rules()
    if not request.textures:
        raise ConfigError("--texture names no texture; give 0, or several such as 0,1")
    for texture in request.textures:
        check_request(request.upscaling(texture, card), card)
    names = [method.name for method in request.methods()]
    for name, folder in request.compare:
        if not name.strip() or not name.isprintable() or "/" in name or name.startswith("."):
            raise ConfigError(f"--compare {name!r}: the name before = becomes that of a method; use letters and digits")
        if not folder.is_dir():
            raise ConfigError(f"--compare {name}: {folder} is no folder; give the one that holds that tool's files")
    if twice := _twice(names):
        raise ConfigError(f"--compare {twice[0]}: another method has that name; choose another one")


def _twice(values: Sequence[object]) -> list[object]:
    return [value for position, value in enumerate(values) if value in values[:position]]
