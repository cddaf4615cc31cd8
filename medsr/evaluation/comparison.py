"""One volume of a study: read once, made coarser by each protocol, brought back by each method, compared, recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medsr.errors import InputError, JobError, PlanError
from medsr.evaluation.bench import Bench, Missing
from medsr.evaluation.gallery import CLASSICAL, Gallery
from medsr.evaluation.journal import Ceiling
from medsr.evaluation.manifest import Entry
from medsr.evaluation.measure import Reference
from medsr.evaluation.methods import Made, Task, brought_along, classical_images, file_of, upscaled
from medsr.evaluation.pace import cost
from medsr.evaluation.record import Exclusion, MethodFacts, Outcome, VolumeFacts
from medsr.evaluation.request import name_of
from medsr.evaluation.survey import Candidate, unfit
from medsr.image.acquired import measured_sharpness
from medsr.image.geometry import Geometry
from medsr.image.intensity import CT_AIR_HU
from medsr.image.nifti import write
from medsr.image.volume import Array, Volume
from medsr.outputs import stem
from medsr.protocols import degrade_file

CLASSICAL_MARK = "classical method, not acquired"
Failed = list[Exclusion]


def compare_volume(candidate: Candidate, left: Missing, bench: Bench) -> Failed:
    """Record what is ``left`` of one volume, the only one in memory; what failed, with the reasons.

    A file that cannot be read, or not be upscaled, fails alone. Everything else that goes wrong (the disk, the device,
    the weights) would go wrong for the next one too, and ends the study.
    """
    entry = candidate.entry
    try:
        reference = load_reference(entry)
    except (InputError, PlanError) as error:
        bench.pace.step(sum(bench.design.work(candidate, methods) for methods in left.values()))
        return [Exclusion(volume=entry.name, protocol=protocol, reason=str(error)) for protocol in left]
    if entry.name not in bench.journal.volumes:
        bench.journal.add(_facts(candidate, reference))
    failed: Failed = []
    for protocol in _admitting(candidate, left, reference, bench):
        bench.pace.begin(f"{entry.name}, {protocol}", bench.design.work(candidate, left[protocol]))
        task = Task(entry, protocol, reference, candidate.header.slice_axis, _place(bench, "scan", protocol, entry))
        try:
            _compare(task, left[protocol], bench)
        except (InputError, PlanError) as error:
            failed.append(Exclusion(volume=entry.name, protocol=protocol, reason=str(error)))
        bench.pace.end()
    return failed


def load_reference(entry: Entry) -> Volume:
    """One volume, through the MONAI transform that training loads with. Raises InputError, PlanError."""
    from medsr.transforms import LoadVolumed  # MONAI takes seconds to import

    item: dict[Any, Any] = {"image": entry.path}
    if entry.modality is not None:
        item["modality"] = entry.modality
    image = LoadVolumed("image")(item)["image"]
    array = image[0].numpy()
    i, j, k = array.shape
    return Volume(array, Geometry((i, j, k), image.affine.numpy()), image.meta["modality"])


def _facts(candidate: Candidate, reference: Volume) -> VolumeFacts:
    entry = candidate.entry
    return VolumeFacts(
        name=entry.name,
        subject=entry.subject,
        modality=reference.modality,
        phantom=entry.phantom,
        shape=reference.geometry.shape,
        spacing=reference.geometry.spacing,
        slice_axis=candidate.header.slice_axis,
        sha256=entry.sha256,
    )


def _admitting(candidate: Candidate, left: Missing, reference: Volume, bench: Bench) -> Iterator[str]:
    """The protocols that admit the volume now that its voxels are known; the others are recorded with their reasons."""
    array = reference.array - CT_AIR_HU if reference.modality == "CT" else reference.array
    sharpness = candidate.entry.sharpness or measured_sharpness(array)
    header = replace(candidate.header, modality=reference.modality)
    for protocol, methods in left.items():
        reason = unfit(header, reference.modality, bench.design.rules[protocol], bench.design.card, sharpness)
        if reason is None:
            yield protocol
        else:
            bench.journal.add(Exclusion(volume=candidate.entry.name, protocol=protocol, reason=reason))
            bench.pace.step(bench.design.work(candidate, methods))


def _compare(task: Task, left: Sequence[MethodFacts], bench: Bench) -> None:
    """Every method that is left, on one scan."""
    name, volume = task.entry.name, task.reference
    try:
        reference = Reference.of(volume.array, volume.modality, task.slice_axis, task.factors)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    if name not in bench.journal.ceilings and reference.noise_ceiling is not None:
        bench.journal.add(Ceiling(volume=name, psnr=reference.noise_ceiling))
    degrade_file(task.entry.path, task.scan, task.protocol, modality=volume.modality, overwrite=True)
    gallery = Gallery(task, reference.mask, bench.out)
    for method, made in _images(task, left, gallery, bench):
        bench.journal.add(_outcome(task, method, made, reference, bench))
        bench.pace.step(volume.array.size * cost(method, bench.request))
    gallery.save()


def _images(
    task: Task, left: Sequence[MethodFacts], gallery: Gallery, bench: Bench
) -> Iterator[tuple[MethodFacts, Made]]:
    """What each method makes; the gallery is on the disk before an outcome can say that a method of medsr is done."""
    wanted = {method.name: method for method in left}
    classical = {m.name for m in left if m.kind == "classical"}
    for name, made in classical_images(task, classical | gallery.lacks):
        if name in CLASSICAL:
            gallery.show(CLASSICAL[name], made.image)
        if name in classical:
            _keep(task, name, made.image, bench)
            yield wanted[name], made
    for method in left:
        if method.kind == "medsr":
            yield method, _own(task, method, gallery, bench)
        elif method.kind == "other":
            path = file_of(dict(bench.request.compare)[method.name], task.protocol, task.entry.name)
            if path is None:
                raise InputError(f"{task.entry.name}: the file of {method.name} is gone; put it back, and use --resume")
            yield method, brought_along(task, path)


def _own(task: Task, method: MethodFacts, gallery: Gallery, bench: Bench) -> Made:
    """medsr, its image shown in the gallery: the mean, and of samples the one with most texture."""
    request = bench.request
    texture = method.texture or 0.0
    progress = bench.pace.within(task.reference.array.size * cost(method, request))
    output = _place(bench, method.name, task.protocol, task.entry)
    made = upscaled(task, request.upscaling(texture, bench.design.card), output, bench.model, progress)
    if texture == 0:
        gallery.show("medsr", made.image)
        if made.std is not None:
            gallery.show("std", made.std)
    elif texture == max(request.textures):
        gallery.show("sample", made.image)
    gallery.save()
    return made


def _outcome(task: Task, method: MethodFacts, made: Made, reference: Reference, bench: Bench) -> Outcome:
    measured = reference.measure(made.image)
    metrics = measured.metrics | made.figures
    stated = None if made.std is None else reference.stated(made.image, made.std)
    if stated is not None:
        metrics |= stated.metrics
    mean = bench.journal.outcomes.get((task.entry.name, task.protocol, name_of(0)))
    if method.texture == 1 and mean is not None and {"psnr"} <= mean.metrics.keys() & metrics.keys():
        # both PSNR are of one range over one mask, so that their difference is the ratio of the squared errors
        metrics["mse_ratio"] = 10 ** ((mean.metrics["psnr"] - metrics["psnr"]) / 10)
    return Outcome(
        volume=task.entry.name,
        protocol=task.protocol,
        method=method.name,
        metrics=metrics,
        spectrum=measured.spectrum,
        reliability=None if stated is None else stated.reliability,
        warnings=(*measured.warnings, *made.warnings),
    )


def _place(bench: Bench, method: str, protocol: str, entry: Entry) -> Path:
    """Where a volume is written: for good if that was asked for, in the form that ``--compare`` reads, else for now."""
    own = Path(entry.name)
    if not bench.request.keep_volumes:
        return bench.work / f"{'scan' if method == 'scan' else 'made'}.nii.gz"
    path = bench.out / "volumes" / method / protocol / own.with_name(f"{stem(own)}.nii.gz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    return path


def _keep(task: Task, name: str, image: Array, bench: Bench) -> None:
    """Write what a classical method made, if volumes are kept."""
    if bench.request.keep_volumes:
        volume = Volume(image, task.reference.geometry, task.reference.modality)
        path = _place(bench, name, task.protocol, task.entry)
        write(path, volume, mark=CLASSICAL_MARK, description=name, overwrite=True)
