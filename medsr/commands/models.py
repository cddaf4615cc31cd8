"""Commands for models: those in the package, weights files, and training."""

from __future__ import annotations

import json
from pathlib import Path

import click

from medsr.exits import say
from medsr.options import AnyPath, ReadablePath, verbose_option


@click.group()
def model() -> None:
    """The models in the package, and weights files."""


@model.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def model_list(as_json: bool) -> None:
    """Name the models in the package."""
    from medsr.card import list_models, read_card

    cards = [read_card(name) for name in list_models()]
    if as_json:
        say(json.dumps([{"name": c.name, "version": c.version, "sha256": c.sha256} for c in cards], indent=2))
    elif cards:
        say("\n".join(f"{c.name:<16} {c.version:<8} {'+'.join(c.modalities):<6} {c.sha256[:12]}" for c in cards))
    else:
        say("no models in the package; give a .safetensors file with --model", err=True)


@model.command("info")
@click.argument("name", metavar="NAME|FILE", default="medsr-base")
def model_info(name: str) -> None:
    """Print a model's card as JSON: data, licences, intended use, limits, measured results."""
    from medsr.card import read_card

    say(json.dumps(read_card(name).model_dump(mode="json"), indent=2))


@click.command()
@click.argument("config", type=ReadablePath)
@click.option("--out", type=AnyPath, help="Folder of the run (default runs/NAME); the same command resumes it.")
@click.option("--init", metavar="WEIGHTS", help="Packaged model or weights file to start from (finetuning).")
@click.option(
    "--max-minutes", metavar="MINUTES", type=click.FloatRange(min=0, min_open=True), help="Stop and save after so long."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Check the configuration and the data, print them and stop.")
@click.option("--validate", is_flag=True, help="Train nothing; score the checkpoints in --out on the split val.")
@verbose_option
def train(
    config: Path,
    out: Path | None,
    init: str | None,
    max_minutes: float | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    validate: bool,
) -> None:
    """Train or finetune a model as a configuration file says.

    In several processes, one for each GPU: torchrun --nproc-per-node 2 -m medsr train CONFIG.
    """
    if validate and (dry_run or init or max_minutes):
        raise click.UsageError("--validate trains nothing; leave --dry-run, --init and --max-minutes away")
    from medsr.training.command import train_command, validate_command

    if validate:
        validate_command(config, out, overrides, report=say)
    else:
        train_command(config, out, init, max_minutes, overrides, dry_run=dry_run, report=say)
