"""What the command line costs before it does anything: ``--help`` against an empty Python, in processes of their own.

    python benchmarks/imports.py [--runs N] [--json] [--results FOLDER]

The ratio matters, not the seconds: it holds on a fast machine and on a busy one. Writes imports.md and imports.json to
docs/results/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from machine import in_words

EMPTY = ("-c", "pass")
COMMANDS = {
    "medsr --help": ("-m", "medsr", "--help"),
    "medsr upscale --help": ("-m", "medsr", "upscale", "--help"),
    "import medsr": ("-c", "import medsr"),
}
HEAVY = ("torch", "monai", "nibabel", "numpy", "scipy", "skimage", "pydantic", "rich")


def seconds(arguments: tuple[str, ...]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(runs: int) -> dict[str, dict[str, float]]:
    """Median seconds of each command, and its ratio to an empty Python, measured in turns."""
    times: dict[str, list[float]] = {"python -c pass": [], **{name: [] for name in COMMANDS}}
    for _ in range(runs + 1):  # the first round warms the disk cache
        times["python -c pass"].append(seconds(EMPTY))
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    empty = medians["python -c pass"]
    return {name: {"seconds": round(m, 4), "ratio": round(m / empty, 2)} for name, m in medians.items()}


def heavy_modules() -> list[str]:
    """The heavy packages that ``medsr --help`` imports: there should be none."""
    code = (
        "import sys\nfrom medsr.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return [name.strip(" '") for name in done.stderr.strip()[1:-1].split(",") if name]


def page(result: dict, machine: str) -> str:
    """The result in Markdown."""
    rows = [f"| `{name}` | {row['seconds'] * 1000:.0f} | {row['ratio']:.2f} |" for name, row in result["times"].items()]
    heavy = ", ".join(result["heavy"]) or "none"
    return "\n".join([
        "# Start of the command line",
        "",
        f"Made by `python benchmarks/imports.py` on {machine}. Medians; every run is a process of its own, the "
        "commands take turns.",
        "",
        "| command | ms | times an empty Python |",
        "|---|---|---|",
        *rows,
        "",
        f"Heavy packages ({', '.join(HEAVY)}) that `medsr --help` imports: {heavy}.",
        "",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="rounds that count (default 7)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent.parent / "docs" / "results")
    arguments = parser.parse_args()
    result = {"times": measure(arguments.runs), "heavy": heavy_modules()}
    arguments.results.mkdir(parents=True, exist_ok=True)
    machine = in_words()
    text = json.dumps({"machine": machine, **result}, indent=2)
    (arguments.results / "imports.json").write_text(text + "\n", encoding="utf-8")
    (arguments.results / "imports.md").write_text(page(result, machine), encoding="utf-8")
    if arguments.json:
        print(text)
        return
    for name, row in result["times"].items():
        print(f"{name:<24} {row['seconds'] * 1000:7.0f} ms {row['ratio']:6.2f} x")
    print(f"heavy packages imported by --help: {', '.join(result['heavy']) or 'none'}")


if __name__ == "__main__":
    main()
