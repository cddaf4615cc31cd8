"""The command line: its commands under one name, and how a process runs one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import click

from medsr import __version__
from medsr.commands.cohorts import batch, jobs
from medsr.commands.measures import compare, evaluate, report
from medsr.commands.models import model, train
from medsr.commands.scans import degrade, demo, info, upscale
from medsr.exits import run
from medsr.options import InOrder


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Super-resolution of MRI and CT volumes. Research use only, not for diagnosis."""


for command in (upscale, info, batch, jobs, compare, evaluate, report, degrade, model, train, demo):
    cli.add_command(command)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its documented code."""
    run(cli, args)
