"""A signal that asks the command to stop becomes an exception: at once, or after what must not be cut in two."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Self

RAISED_AGAIN_S = 2.0  # long after the unfinished files are gone
_LOADING_S = 0.1

_heard: type[BaseException] | None = None  # what was asked for and not yet answered
_protected = False


class Terminated(BaseException):
    """SIGTERM, as an exception: unfinished files are removed on the way out."""

    exit_code = 143  # 128 + signal, as a shell reports it
    words = "terminated; no half-written file was left"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C. Python itself ends by the signal, whatever we return, once a plain KeyboardInterrupt has left an exec."""

    exit_code = 130
    words = "interrupted; no half-written file was left"


def listen() -> None:
    """From now on SIGTERM raises ``Terminated`` and Ctrl-C ``Interrupted``, in the main thread."""
    signal.signal(signal.SIGTERM, _raising(Terminated))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as under nohup
        signal.signal(signal.SIGINT, _raising(Interrupted))


def _raising(kind: type[BaseException]) -> Callable[[int, FrameType | None], None]:
    """Handler that raises ``kind``, and again while the command goes on: an import may have swallowed the exception."""

    def handler(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  as signal.signal wants it
        global _heard
        _heard = kind
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, handler)
            loading = getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False)
            signal.setitimer(signal.ITIMER_REAL, _LOADING_S if loading else RAISED_AGAIN_S)
            if loading:  # an exception inside torch's own start-up would abort the process: wait for its end
                return
        raise_heard()

    return handler


def raise_heard() -> None:
    """Raise what a signal asked for, where that was put off or got lost: Python clears exceptions in finalizers."""
    if _heard is not None and not _protected:
        raise _heard


def calm() -> None:
    """The stop is being answered; it is not raised again."""
    global _heard
    _heard = None
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


class uninterrupted:  # noqa: N801  reads as the statement that it is
    """A block that the main thread goes through to its end; a stop that was asked for meanwhile is raised after it.

    In other threads, and for signals that ``listen`` does not hear, it changes nothing.
    """

    def __enter__(self) -> Self:
        global _protected
        self._ours = threading.current_thread() is threading.main_thread()
        if self._ours:
            self._outside, _protected = _protected, True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _protected
        if self._ours:
            _protected = self._outside
            if kind is None:
                raise_heard()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A part of the block in which a stop is raised as outside of it, at the latest at the part's end."""
        global _protected
        if not self._ours:
            yield
            return
        try:
            _protected = self._outside
            raise_heard()
            yield
            raise_heard()
        finally:
            _protected = True
