"""``reconstruct``: a volume, a plan and a model to a finer volume, with its certificate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medsr.certificate import Certificate, certify
from medsr.degradation import Degradation, interpolate
from medsr.diffusion.conditions import REGRESSORS
from medsr.diffusion.device import dtype_for
from medsr.diffusion.model import Model
from medsr.errors import DeviceError, InputError, ModelError
from medsr.image.intensity import CT_AIR_HU, Intensity, fit_intensity
from medsr.image.volume import Volume
from medsr.plan import Plan
from medsr.reconstruction import PassResult, run_pass, weight_of_consistency
from medsr.runner import Runner

Progress = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class Result:
    """volume: on the target grid. std, detail: in the units of the scan, None when not asked for.

    evaluations: of the network, per slice plane and pass. intensity: the map that was used, for further volumes of
    the same file.
    """

    volume: Volume
    plan: Plan
    std: Volume | None
    detail: Volume | None
    certificate: Certificate
    timings: dict[str, float]
    device: str
    dtype: str
    threads: int
    evaluations: int
    warnings: tuple[str, ...]
    intensity: Intensity


def reconstruct(
    volume: Volume,
    plan: Plan,
    model: Model,
    *,
    progress: Progress | None = None,
    intensity: Intensity | None = None,
) -> Result:
    """Upscale one volume as planned.

    volume: on ``plan.acquired``, finite. intensity: the map of an earlier volume of the same file. Raises InputError
    when volume and plan disagree, DeviceError when the device is lost or, after one retry with smaller batches, out of
    memory.
    """
    if not volume.geometry.same_grid(plan.acquired):
        raise InputError("the volume is not on the grid that was planned for; make the plan from this volume's header")
    if len(model.card.residual_scale) != REGRESSORS:
        found = len(model.card.residual_scale)
        raise ModelError(f"model {model.card.name} has {found} coefficients of residual scale, not {REGRESSORS}")
    report = progress or _silent
    intensity = intensity or fit_intensity(volume.array, volume.modality)
    padding = volume.array < CT_AIR_HU if volume.modality == "CT" else None
    scan = np.maximum(volume.array, np.float32(CT_AIR_HU)) if padding is not None else volume.array
    y = torch.from_numpy(np.ascontiguousarray(intensity.apply(scan)))
    dtype = dtype_for(model.device)
    timings: dict[str, float] = {}
    warnings: list[str] = []
    for shrink in (0, 2):
        runner = Runner(model, volume.modality, None if dtype == torch.float32 else dtype, shrink, report, timings)
        try:
            with torch.inference_mode():
                x, variance = _chains(y, plan, runner)
            break
        except torch.cuda.OutOfMemoryError as error:
            if shrink:
                raise DeviceError(
                    f"{model.device} ran out of memory twice; use --device cpu or a smaller scan"
                ) from error
            torch.cuda.empty_cache()
            warnings.append(f"{model.device} was out of memory; repeated with smaller batches")
        except torch.AcceleratorError as error:
            raise DeviceError(f"{model.device} failed: {str(error).splitlines()[0]}; use --device cpu") from error
    began = time.perf_counter()
    A = total_operator(plan)
    array = _finished(x, volume, plan, intensity, padding)
    certificate = certify(array, volume, A, plan)
    with torch.inference_mode():  # tensors made in that mode may change in it alone
        std = None if variance is None else variance.clamp_min_(0).sqrt_().mul_(intensity.scale).numpy()
    detail = array - _explained(array, A) if plan.request.detail_map else None
    timings["finish"] = time.perf_counter() - began
    provenance = volume.provenance.then("super-resolution", **_step(plan, model, runner))
    made = Volume(array, plan.target, volume.modality, provenance)
    return Result(
        volume=made,
        plan=plan,
        std=None if std is None else replace(made, array=std),
        detail=None if detail is None else replace(made, array=detail),
        certificate=certificate,
        timings={name: round(value, 4) for name, value in timings.items()},
        device=str(model.device),
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        evaluations=runner.evaluations,
        warnings=tuple(warnings),
        intensity=intensity,
    )


def _silent(_stage: str, _share: float) -> None:
    """No progress wanted."""


def total_operator(plan: Plan) -> Degradation:
    """From the target grid straight to the scan, whatever the passes in between."""
    return Degradation.between(plan.target, plan.acquired, plan.profiles)


def _chains(y: Tensor, plan: Plan, runner: Runner) -> tuple[Tensor, Tensor | None]:
    """The wanted estimate and, when asked for, its variance; normalised units."""
    request = plan.request
    runner.plan_work(len(plan.passes) * (1 + (request.samples if _samples_needed(plan) else 0)))
    mean = _chain(y, plan, runner, sample=None)
    variance = None
    if mean.variance is not None:
        factor = runner.model.card.calibration.get(runner.modality, 1.0)
        variance = mean.variance * factor**2
    if not _samples_needed(plan):
        return mean.x, variance
    squares = torch.zeros_like(mean.x)
    first = None
    for index in range(request.samples):
        drawn = _chain(y, plan, runner, sample=index).x
        first = drawn if first is None else first
        squares += (drawn - mean.x).square()
    if request.uncertainty and request.samples > 1:
        variance = squares / request.samples
    texture = request.texture
    if texture == 0 or first is None:
        return mean.x, variance
    return mean.x + texture * (first - mean.x), variance


def _samples_needed(plan: Plan) -> bool:
    return plan.request.texture > 0 or (plan.request.uncertainty and plan.request.samples > 1)


def _chain(y: Tensor, plan: Plan, runner: Runner, *, sample: int | None) -> PassResult:
    """All passes, the last one consistent with the scan itself. sample: its number, None for the posterior mean."""
    x = y
    for number, step in enumerate(plan.passes):
        last = number == len(plan.passes) - 1
        result = run_pass(x, step, plan, runner, sample=sample, number=number)
        if last and len(plan.passes) > 1 and plan.consistency != "off":
            with runner.clock("consistency"):
                A = total_operator(plan)
                lam = weight_of_consistency(plan, plan.profiles, result.noise, result.spread)
                result.x.add_(A.pinv(y - A(result.x), lam))
        x = result.x
    return result


def _finished(
    x: Tensor, volume: Volume, plan: Plan, intensity: Intensity, padding: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Scan units as they will be written: whole HU and padding values for CT."""
    array: NDArray[np.float32] = x.numpy()
    array *= np.float32(intensity.scale)
    array += np.float32(intensity.offset)
    if padding is None:
        return array
    np.rint(array, out=array)
    if padding.any():
        nearest = interpolate(torch.from_numpy(volume.array), plan.acquired, plan.target, "nearest").numpy()
        np.copyto(array, nearest, where=nearest < CT_AIR_HU)
    return array


def _explained(array: NDArray[np.float32], A: Degradation) -> NDArray[np.float32]:
    """``A_pinv A x``: the part of a volume that a scan determines."""
    x = torch.from_numpy(array)
    return A.pinv(A(x)).numpy()


def _step(plan: Plan, model: Model, runner: Runner) -> dict[str, Any]:
    return {
        "note": "AI SR, not acquired",
        "model": model.card.name,
        "model_sha256": model.card.sha256,
        "texture": plan.request.texture,
        "seed": plan.request.seed if _samples_needed(plan) else None,
        "consistency": plan.consistency,
        "factors": [round(f, 6) for f in plan.factors],
        "noise": None if math.isnan(runner.noise) else round(runner.noise, 6),
    }
