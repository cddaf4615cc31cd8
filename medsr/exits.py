"""How a command begins and ends: signals become exceptions, exceptions one line and a documented exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

import click

SOME_FAILED = 8  # of the scans of a batch or a study; the others are done
INTERRUPTED, TERMINATED = 130, 143  # 128 + signal, as a shell reports it
_REPORT = "this is a bug of medsr; please report it with this line, the output of 'medsr --version' and your command"


def say(text: str, *, err: bool = False) -> None:
    """Print what a terminal can show; control characters are escaped."""
    from medsr.terminal import printable

    click.echo(printable(text), err=err)


def fail(text: str) -> None:
    """Print an error on its one line."""
    say(f"medsr: error: {' '.join(text.splitlines())}", err=True)


RAISED_AGAIN_S = 2.0  # long after the unfinished files are gone


class _Terminated(BaseException):
    """SIGTERM, as an exception: unfinished files are removed on the way out."""


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C. Python itself ends by the signal, whatever we return, once a plain KeyboardInterrupt has left an exec."""


def _raising(kind: type[BaseException]) -> Callable[[int, FrameType | None], None]:
    """Handler that raises ``kind``, and again while the command goes on: an import may have swallowed the exception."""

    def handler(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  as signal.signal wants it
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, handler)
            loading = getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False)
            signal.setitimer(signal.ITIMER_REAL, 0.1 if loading else RAISED_AGAIN_S)
            if loading:  # an exception inside torch's own start-up would abort the process: wait for its end
                return
        raise kind

    return handler


def _calm() -> None:
    """The signal has been heard; it is not raised again."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


def run(command: click.Command, args: Sequence[str] | None = None) -> NoReturn:
    """Run a command line (default: that of this process) and exit with its documented code."""
    signal.signal(signal.SIGTERM, _raising(_Terminated))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as under nohup
        signal.signal(signal.SIGINT, _raising(_Interrupted))
    # Threads that wait by spinning make a run several times slower where other programs need the cores too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if args is None else args)
    sys.exit(outcome(command, arguments))


def outcome(command: click.Command, arguments: list[str]) -> int:
    """The exit code of a command; what went wrong is printed."""
    from medsr.errors import MedsrError

    try:
        value = command.main(arguments, prog_name="medsr", standalone_mode=False)
        sys.stdout.flush()
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
        _calm()
        fail("interrupted; no half-written file was left")
        return INTERRUPTED
    except _Terminated:
        _calm()
        fail("terminated; no half-written file was left")
        return TERMINATED
    except MemoryError:
        fail("out of memory; ask for a smaller --scale or crop the scan")
        return 6
    except BrokenPipeError:  # the reader of our output has gone, as with | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        fail(f"unexpected {type(error).__name__}: {error}")
        say(_REPORT, err=True)
        if any(a in ("-v", "--verbose") for a in arguments):
            import traceback

            traceback.print_exc()
        return 1
