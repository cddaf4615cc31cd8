"""Write medsr/weights/<model>.md from the card and from docs/results/, and the measured means into the card itself.

    python docs/make_model_card.py [--model medsr-base] [--check]

``--check`` writes nothing and ends with status 1 when the committed page is not what would be written.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from medsr.card import ModelCard, model_path, read_card
from medsr.diffusion.model import save_model
from medsr.evaluation.report.findings import findings
from medsr.evaluation.report.results import read_results

RESULTS = Path(__file__).parent / "results"
ATTRIBUTIONS = Path(__file__).parent / "attributions.csv"  # of every data set that the packaged models learnt from


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="medsr-base")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    path = model_path(options.model)
    card = read_card(path)
    measured = {split: means(RESULTS / split / "metrics.json", card) for split in ("val", "test")}
    if not options.check and card.results != measured:
        card = save_model(path, card.model_copy(update={"results": measured}), load_file(path))
    page = path.with_suffix(".md")
    text = render(card, path.stat().st_size)
    if options.check:
        return 0 if page.is_file() and page.read_text(encoding="utf-8") == text and card.results == measured else 1
    page.write_text(text, encoding="utf-8")
    return 0


def means(path: Path, card: ModelCard) -> dict[str, Any]:
    """Per protocol and modality: subjects, mean PSNR of medsr, mean gain over the best classical method, in dB.

    Nothing where the figures are of other weights.
    """
    if not path.is_file():
        return {}
    results = read_results([path])
    model = results.studies[0].model
    if model is None or model.sha256 != card.sha256:
        return {}
    return {
        f"{one.protocol.name} {one.modality}": {
            "subjects": one.subjects,
            "psnr_db": round(one.mean("psnr") or 0.0, 2),
            "gain_db": round(one.gain.mean, 2),
        }
        for one in sorted(findings(results), key=lambda f: (f.protocol.name, f.modality))
        if one.gain is not None
    }


def render(card: ModelCard, size: int) -> str:
    """The page in Markdown."""
    minutes = ", ".join(f"{part} {value:g} min" for part, value in card.training.get("minutes", {}).items())
    steps = ", ".join(f"{part} {value}" for part, value in card.training.get("steps", {}).items())
    parts = [
        f"# {card.name} {card.version}",
        f"{card.intended_use} Made by `docs/make_model_card.py`; the same card is inside the weights file "
        f"(`medsr model info {card.name}`).",
        "| | |\n|---|---|\n"
        f"| sha256 of the tensors | `{card.sha256}` |\n"
        f"| file | {size / 1e6:.1f} MB, float16 safetensors |\n"
        f"| modalities | {', '.join(card.modalities)} |\n"
        f"| spacing | {card.spacing_mm[0]:g} to {card.spacing_mm[1]:g} mm |\n"
        f"| largest factor of a pass | {card.max_factor:g} |\n"
        f"| network | width {card.network.width}, {card.network.blocks_top} + {card.network.blocks_bottom} blocks, "
        f"{card.context} neighbour slice on each side |\n"
        f"| training | `medsr train configs/base.yaml` on two CPU cores: {minutes}; steps: {steps} |\n"
        f"| licence of the weights | {card.licence} |",
        "## Accuracy",
        "Mean over subjects, phantoms apart: foreground PSNR of the posterior mean (`--texture 0`), and its gain over "
        "the best classical method on each volume. Per volume: docs/results/.",
        _results(card.results),
        "## Known failures",
        _failures(),
        "## Training data",
        "All volumes of the split `train`; their licences allow derived works. Volumes with non-commercial, "
        "share-alike, unclear or unverified terms, and head collections that may be under limited access, were kept "
        "out, as were the subjects of `val` and `test`. No scan is part of the package. DOIs were not looked up.",
        _data(card.training.get("data", [])),
    ]
    return "\n\n".join(parts) + "\n"


def _results(results: dict[str, Any]) -> str:
    rows = ["| split | protocol | modality | subjects | PSNR, dB | gain, dB |", "|---|---|---|---|---|---|"]
    for split, table in results.items():
        for name, row in table.items():
            protocol, modality = name.rsplit(" ", 1)
            rows.append(
                f"| {split} | {protocol} | {modality} | {row['subjects']} | {row['psnr_db']:.2f} | "
                f"{row['gain_db']:+.2f} |"
            )
    return "\n".join(rows)


def _failures() -> str:
    return (
        "- Trained on few subjects, in less than four hours on two cores.\n"
        "- A blind scan whose blur is not the assumed one gains less than one whose profile is told, and a wrong "
        "`--profile` does harm.\n"
        "- The noise estimate takes fine texture for noise, so that sharp scans are smoothed a little more than they "
        "need.\n"
        "- The stated uncertainty is uneven between scans, above all on CT (docs/results/calibration-test.md): too "
        "wide on soft kernels, too narrow on sharp ones; samples (`--texture` above 0) are grainier or smoother than "
        "the scan accordingly.\n"
        "- Samples vary less than they should along the slice axis.\n"
        "- Lesions and implants are rare in the data; the mean smooths small structures."
    )


def _data(rows: list[dict[str, str]]) -> str:
    """One line a data set, with whom to credit (docs/attributions.csv)."""
    with ATTRIBUTIONS.open(newline="", encoding="utf-8") as stream:
        credit: dict[str, tuple[list[str], str]] = {}
        for row in csv.DictReader(stream):
            sources, _ = credit.setdefault(row["dataset"], ([], row["citation"]))
            sources.append(row["source"])
    count: dict[tuple[str, str, str], int] = defaultdict(int)
    for row in rows:
        count[row["dataset"], row["modality"], row["licence"]] += 1
    lines = ["| data set | modality | volumes | licence | credit | taken from |", "|---|---|---|---|---|---|"]
    for (dataset, modality, licence), n in sorted(count.items()):
        sources, citation = credit[dataset]
        lines.append(f"| {dataset} | {modality} | {n} | {licence} | {citation} | {', '.join(sources)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
