"""The accuracy of the packaged weights: evaluate, keep the figures in docs/results/, and make pages of them.

    MEDSR_DATA=<folder with INDEX.csv> python benchmarks/results.py [--split val|test ...] [--render]

Runs ``medsr evaluate`` on each split into runs/results/ (a run that was stopped goes on), copies its metrics.json,
without the curves, to docs/results/<split>/, and writes from these files, and from nothing else, the pages
docs/results/<split>.md and the table in README.md. --render makes the pages alone. A look at the test split is a line
of docs/results/log.csv.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from medsr.card import read_card
from medsr.evaluation.record import Outcome, Study, read_study
from medsr.image.files import atomic_write
from medsr.training.setup import data_root

sys.path.insert(0, str(Path(__file__).parent))
from crops import RESULTS, log_look
from results_page import page, summary_table

ROOT = Path(__file__).resolve().parent.parent
PROTOCOLS = ("inplane-x2", "inplane-x4", "slice-x4", "inplane-x2-kspace", "blind-x2")
BEGIN, END = "<!-- results: written by benchmarks/results.py -->", "<!-- end of results -->"
DIGITS = 7  # significant ones of every figure that is kept: the files stay small, and more was never measured


def evaluated(split: str, model: str, texture: str) -> Path:
    """The folder of a study of one split, made by the command that a user has."""
    out = ROOT / "runs" / "results" / f"{split}-{read_card(model).sha256[:12]}"
    words = ["evaluate", "--data", str(data_root().resolve()), "--split", split, "--protocol", ",".join(PROTOCOLS)]
    words += ["--texture", texture, "--model", model, "--out", str(out), "--resume"]
    print(shlex.join(["medsr", *words]), flush=True)
    status = subprocess.run([sys.executable, "-m", "medsr", *words], cwd=ROOT, check=False).returncode
    if status not in (0, 8):  # 8: some volumes failed, and the page says which
        raise SystemExit(status)
    return out


def slimmed(study: Study) -> Study:
    """The figures without spectra and reliability, which fill nine tenths of the file and no table."""

    def slim(outcome: Outcome) -> Outcome:
        metrics = {name: float(f"{value:.{DIGITS}g}") for name, value in outcome.metrics.items()}
        return outcome.model_copy(update={"metrics": metrics, "spectrum": None, "reliability": None})

    ceilings = {name: round(value, 3) for name, value in study.noise_ceiling.items()}
    outcomes = tuple(slim(o) for o in study.outcomes)
    return study.model_copy(update={"outcomes": outcomes, "noise_ceiling": ceilings})


def rendered() -> dict[Path, str]:
    """Every page and the README with its table, as the committed figures make them."""
    studies = {path.parent.name: read_study(path) for path in sorted(RESULTS.glob("*/metrics.json"))}
    pages = {RESULTS / f"{split}.md": page(study) for split, study in studies.items()}
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"README.md lacks the lines {BEGIN} and {END}")
    table = summary_table(studies["test"]) if "test" in studies else "Not measured yet."
    return pages | {readme: f"{before}{BEGIN}\n{table}\n{end}{after}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--split", nargs="+", choices=("val", "test"), default=["val"])
    parser.add_argument("--model", default="medsr-base")
    parser.add_argument("--texture", default="0", metavar="T[,T...]")
    parser.add_argument("--render", action="store_true", help="make the pages of the figures that are there")
    options = parser.parse_args()
    for split in () if options.render else options.split:
        if split == "test":
            command = shlex.join(["python", "benchmarks/results.py", *sys.argv[1:]])
            log_look(read_card(options.model).sha256[:12], command)
        study = slimmed(read_study(evaluated(split, options.model, options.texture)))
        (RESULTS / split).mkdir(parents=True, exist_ok=True)
        with atomic_write(RESULTS / split / "metrics.json", overwrite=True) as stream:
            stream.write(study.model_dump_json(indent=1, exclude_none=True).encode() + b"\n")
    for path, text in rendered().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
