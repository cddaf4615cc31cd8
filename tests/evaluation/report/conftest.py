"""Studies as ``evaluate`` leaves them: figures that are known, and cases."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medsr.evaluation.casefile import Case, case_path, write_case
from medsr.evaluation.record import (
    Curve,
    Exclusion,
    MethodFacts,
    ModelFacts,
    Outcome,
    ProtocolFacts,
    Reliability,
    Study,
    VolumeFacts,
    write_study,
)

INPLANE = ProtocolFacts(name="inplane-x2", axes="in-plane", factor=2.0, text="Coarser by two in plane.")
SLICE = ProtocolFacts(name="slice-x4", axes="slice", factor=4.0, text="Coarser by four along the slices.")
CLASSICAL = ("cubic", "linear MMSE")
FREQUENCY = tuple(np.linspace(0.01, 0.5, 20).tolist())


def volume(name: str, subject: str | None = None, modality: str = "MR", *, phantom: bool = False) -> VolumeFacts:
    return VolumeFacts(
        name=name,
        subject=subject or name,
        modality=modality,
        phantom=phantom,
        shape=(64, 60, 30),
        spacing=(0.5 + 0.01 * len(name), 0.5, 3.0),
        slice_axis=2,
        sha256=hashlib.sha256(name.encode()).hexdigest(),
    )


def outcome(volume: VolumeFacts, protocol: str, method: str, psnr: float, **more: float) -> Outcome:
    metrics = {"psnr": psnr, "ssim_3d": 0.9 + psnr / 1000, "ssim_2d": 0.9, "seconds": 2.0, **more}
    if volume.modality == "CT":
        metrics |= {"bias_soft": 0.5, "bias_foreground": -0.25}
    stated = tuple(np.geomspace(1, 10, 8).tolist())
    trust = Reliability(stated=stated, error=stated, voxels=(100,) * 8) if method == "medsr" else None
    curve = Curve(frequency=FREQUENCY, decibels=tuple(-10 * f for f in FREQUENCY))
    return Outcome(
        volume=volume.name, protocol=protocol, method=method, metrics=metrics, spectrum=curve, reliability=trust
    )


def study_of(
    gains: Mapping[str, float],
    volumes: tuple[VolumeFacts, ...],
    protocols: tuple[ProtocolFacts, ...] = (INPLANE,),
    *,
    version: str = "1",
    created: str = "2026-01-01T00:00:00Z",
    warnings: tuple[str, ...] = (),
) -> Study:
    """medsr's PSNR is 30 dB + the volume's gain, linear MMSE's 30, cubic's 29; texture 1 is 2 dB below medsr."""
    outcomes = []
    for protocol in protocols:
        for v in volumes:
            made = outcome(v, protocol.name, "medsr", 30 + gains[v.name], coverage_90=0.9, certificate=1e-4)
            outcomes += [
                outcome(v, protocol.name, "cubic", 29.0),
                outcome(v, protocol.name, "linear MMSE", 30.0),
                made.model_copy(update={"warnings": warnings}),
                outcome(v, protocol.name, "medsr, texture 1", 28 + gains[v.name]),
            ]
    methods = [MethodFacts(name=name, kind="classical", text=name) for name in CLASSICAL]
    methods += [MethodFacts(name="medsr", kind="medsr", text="posterior mean", texture=0.0),
                MethodFacts(name="medsr, texture 1", kind="medsr", text="one sample", texture=1.0)]  # fmt: skip
    return Study(
        title="Held-out scans",
        created=created,
        command="medsr evaluate --data scans",
        split="test",
        versions={"medsr": "0.1.0"},
        model=ModelFacts(name="medsr-base", version=version, sha256=version * 64),
        seed=0,
        protocols=protocols,
        methods=tuple(methods),
        volumes=volumes,
        outcomes=tuple(outcomes),
        excluded=(Exclusion(volume="thick.nii.gz", protocol="slice-x4", reason="spacing of 6.5 mm"),),
        noise_ceiling={volumes[0].name: 41.5} if volumes else {},
    )


def case_of(seed: int, shape: tuple[int, int, int] = (28, 26, 14), *, noise: float = 0.02) -> Case:
    """A bright ball in noise, its cubic a little blurred by averaging, axes that are no display order."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    ball = 1000.0 * (np.square(grid / 0.7).sum(0) < 1) * (1 + 0.3 * np.sin(9 * grid[0]))
    reference = (ball + 1000 * noise * rng.normal(size=shape)).astype(np.float32)
    cubic = (reference + np.roll(reference, 1, 0) + np.roll(reference, -1, 0)) / 3
    medsr = 0.5 * (cubic + reference)
    images = {"scan": np.repeat(cubic[::2], 2, 0), "cubic": cubic, "medsr": medsr, "reference": reference}
    images |= {"sample": medsr + 20 * rng.normal(size=shape), "std": np.abs(reference - medsr) + 1}
    return Case(images, (0.5, 0.5, 1.5), 2, "PIR")


Saved = Callable[..., Path]


@pytest.fixture
def make() -> SimpleNamespace:
    """The builders of this module, which tests cannot import."""
    return SimpleNamespace(volume=volume, outcome=outcome, study=study_of, case=case_of, inplane=INPLANE, slice=SLICE)


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Write a study into a folder of its own, with cases of the given volumes (default: all)."""

    def save(study: Study, name: str = "study", *, cases: tuple[str, ...] | None = None) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        write_study(study, folder)
        wanted = [v.name for v in study.volumes] if cases is None else cases
        for protocol in study.protocols:
            for seed, volume in enumerate(wanted):
                write_case(case_of(seed), case_path(folder, protocol.name, volume))
        return folder

    return save
