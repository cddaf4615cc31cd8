"""How a command begins and ends: signals become exceptions, exceptions one line and a documented exit code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from medsr import stopping

_REPORT = "this is a bug of medsr; please report it with this line, the output of 'medsr --version' and your command"


def say(text: str, *, err: bool = False) -> None:
    """Print what a terminal can show; control characters are escaped."""
    from medsr.terminal import printable

    click.echo(printable(text), err=err)


def fail(text: str) -> None:
    """Print an error on its one line."""
    say(f"medsr: error: {' '.join(text.splitlines())}", err=True)


def run(command: click.Command, args: Sequence[str] | None = None) -> NoReturn:
    """Run a command line (default: that of this process) and exit with its documented code."""
    _open_streams()
    stopping.listen()
    # Threads that wait by spinning make a run several times slower where other programs need the cores too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if args is None else args)
    sys.exit(outcome(command, arguments))


def _open_streams() -> None:
    """Standard streams that the caller closed lead nowhere; else the next file opened would take their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # a file that is opened takes the lowest free number
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  stays open


def outcome(command: click.Command, arguments: list[str]) -> int:
    """The exit code of a command; what went wrong is printed."""
    from medsr.errors import MedsrError

    try:
        value = command.main(arguments, prog_name="medsr", standalone_mode=False)
        sys.stdout.flush()
        stopping.raise_heard()
        return value if isinstance(value, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        fail(error.format_message())
        if isinstance(error, click.UsageError) and error.ctx is not None:
            say(f"try '{error.ctx.command_path} --help'", err=True)
        return error.exit_code
    except MedsrError as error:
        fail(str(error))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        stopping.calm()
        fail(stopping.Interrupted.words)
        return stopping.Interrupted.exit_code
    except stopping.Terminated:
        stopping.calm()
        fail(stopping.Terminated.words)
        return stopping.Terminated.exit_code
    except MemoryError:
        fail("out of memory; ask for a smaller --scale or crop the scan")
        return 6
    except BrokenPipeError:  # the reader of our output has gone, as with | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        fail(f"unexpected {type(error).__name__}: {error}")
        say(_REPORT, err=True)
        if any(a == "--verbose" or re.fullmatch("-q*vq*", a) for a in arguments):
            import traceback

            traceback.print_exc()
        return 1
