"""``medsr demo``: a coarse scan upscaled, scored against the fine one and against classical methods, and drawn."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from medsr.degradation import Degradation, interpolate, linear_mmse, parse_profile
from medsr.errors import JobError, PlanError
from medsr.evaluation.metrics import Scores, score
from medsr.image.nifti import write
from medsr.image.render import contact_sheet, display_window, oriented_slice, render_slice, save_png
from medsr.image.scan import read
from medsr.image.volume import Array, Volume
from medsr.protocols import protocol, simulate
from medsr.request import Request
from medsr.resources import sample_path
from medsr.run import Progress, upscale_file

PROTOCOL = "inplane-x2"  # how the template is degraded; the coarse phantom was scanned with the same profile
LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1)  # noise over signal variance; linear MMSE is given the best of them
_CT = Path("data", "test_files", "CT_small.dcm")
_TEMPLATE = Path("datasets", "data", "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
_POSITION = 0.55  # of the extent, from feet to head: where the picture is taken


@dataclass(frozen=True)
class Demo:
    """What the demonstration found. scores: by method, in the order shown."""

    title: str
    scores: dict[str, Scores]
    picture: Path

    def table(self) -> str:
        """PSNR over the foreground and 3-D SSIM, one line a method."""
        lines = [self.title, f"{'':<14} {'PSNR, dB':>9} {'SSIM':>8}"]
        for method, s in self.scores.items():
            ssim = f"{s.ssim_3d:8.4f}" if s.ssim_3d is not None else f"{'-':>8}"
            lines.append(f"{method:<14} {s.psnr:9.2f} {ssim}")
        return "\n".join(lines)


def run_demo(
    folder: Path,
    *,
    model: str = "medsr-base",
    device: str = "auto",
    progress: Progress | None = None,
    real: Literal["mr", "ct"] | None = None,
) -> Demo:
    """Upscale a coarse scan into ``folder`` and compare with the fine one.

    real: instead of the phantom, the MNI152 template (mr) or one slice of a DICOM CT (ct) out of installed packages,
    degraded first. Writes the upscaled scan, its sidecar and ``<name>.png``; files of an earlier run are replaced.
    Downloads nothing. Raises PlanError when nilearn, which carries the template, is not installed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"cannot make the folder {folder}: {error.strerror}; choose another with --output") from error
    if real is None:
        name, what = "head", "a digital head phantom, scanned at two resolutions"
        fine = read(sample_path("head_fine.nii.gz"), modality="MR")
        coarse_path = sample_path("head_coarse.nii.gz")
    else:
        name, what, fine = _template() if real == "mr" else _ct_slice()
        coarse_path = folder / f"{name}_coarse.nii.gz"
        coarse = simulate(fine, protocol(PROTOCOL), torch.Generator(), slice_axis=2)
        write(coarse_path, coarse, mark="degraded, not acquired", description=PROTOCOL, overwrite=True)
    coarse = read(coarse_path, modality=fine.modality)
    request = Request(
        target=fine.geometry,
        profile=protocol(PROTOCOL).told_profile,
        modality="ct" if fine.modality == "CT" else "mr",
        model=model,
        device=device,
    )
    done = upscale_file(coarse_path, folder / f"{name}_sr.nii.gz", request, progress, overwrite=True)
    images = {**_baselines(coarse, fine), "medsr": done.result.volume.array}
    scores = {method: score(fine.array, image, fine.modality) for method, image in images.items()}
    picture = folder / f"{name}.png"
    _draw(picture, coarse, images["linear MMSE"], images["medsr"], fine)
    title = f"{what}: {' x '.join(map(str, coarse.array.shape))} to {' x '.join(map(str, fine.array.shape))} voxels"
    return Demo(title, scores, picture)


def _installed(package: str, path: Path) -> Path | None:
    """A file that an installed package carries; None where it does not."""
    spec = importlib.util.find_spec(package)
    found = Path(spec.origin).parent / path if spec is not None and spec.origin else None
    return found if found is not None and found.is_file() else None


def _template() -> tuple[str, str, Volume]:
    """The MNI152 head (Fonov et al. 2011, ICBM 2009a nonlinear symmetric) inside an installed nilearn."""
    path = _installed("nilearn", _TEMPLATE)
    if path is None:
        raise PlanError(
            "--real mr needs the MNI152 template that nilearn carries; pip install 'medsr[demo]', or choose --real ct"
        )
    whole = read(path, modality="MR")
    # An even number of voxels in plane, so that the coarse grid covers the same field of view by a whole factor.
    shape = [n - n % 2 if axis < 2 else n for axis, n in enumerate(whole.array.shape)]
    array = np.ascontiguousarray(whole.array[: shape[0], : shape[1], : shape[2]])
    geometry = type(whole.geometry)((shape[0], shape[1], shape[2]), whole.geometry.affine)
    fine = Volume(array, geometry, "MR", whole.provenance.then("cropped to even size", shape=shape))
    return "mni152", "the MNI152 template, degraded", fine


def _ct_slice() -> tuple[str, str, Volume]:
    """One CT slice, the DICOM file that pydicom carries for its own tests."""
    path = _installed("pydicom", _CT)
    if path is None:
        raise PlanError(f"--real ct needs {_CT.name}, which this pydicom does not carry; choose --real mr")
    return "ct_small", f"a DICOM CT slice ({_CT.name} of pydicom), degraded", read(path, modality="CT")


def _operator(coarse: Volume, fine: Volume) -> Degradation:
    in_plane = parse_profile(protocol(PROTOCOL).told_profile)
    return Degradation.between(fine.geometry, coarse.geometry, [in_plane, in_plane, ("identity", 1.0)])


def _baselines(coarse: Volume, fine: Volume) -> dict[str, Array]:
    """Cubic interpolation, and linear MMSE with whichever regularisation scores best against the fine scan."""
    y = torch.from_numpy(coarse.array)
    A = _operator(coarse, fine)
    mean = y.mean()
    linear = [(linear_mmse(y - mean, A, lam) + mean).numpy() for lam in LAMBDAS]
    cubic = interpolate(y, coarse.geometry, fine.geometry, "cubic").numpy()
    best = min(linear, key=lambda image: float(np.square(image - fine.array, dtype=np.float64).mean()))
    return {"cubic": cubic, "linear MMSE": best}


def _draw(path: Path, coarse: Volume, linear: Array, upscaled: Array, fine: Volume) -> None:
    """Five panels side by side: coarse, linear MMSE, medsr, fine, and the error of medsr enlarged."""
    window = display_window(fine.array, fine.modality)
    span = window[1] - window[0]
    panels = []
    for array, geometry, shown in (
        (coarse.array, coarse.geometry, window),
        (linear, fine.geometry, window),
        (upscaled, fine.geometry, window),
        (fine.array, fine.geometry, window),
        (np.abs(upscaled - fine.array), fine.geometry, (0.0, 0.2 * span)),
    ):
        view = oriented_slice(array, geometry, "axial", _POSITION)
        panels.append((render_slice(view.values, shown), view.pixel_mm))
    save_png(path, contact_sheet(panels, ["coarse", "linear MMSE", "medsr", "fine", "error x 5"]))
