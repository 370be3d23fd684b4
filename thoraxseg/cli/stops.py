"""Ctrl-C and SIGTERM: the work ends, and nothing stays half written."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Terminated(BaseException):
    """The process was asked to end (SIGTERM); like KeyboardInterrupt, no `except Exception` stops it."""


STOPS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: _Terminated}
asked_to_stop: list[type[BaseException]] = []


def _stop(signum: int, frame: object) -> None:
    asked_to_stop.append(STOPS[signum])
    raise STOPS[signum]


def stopped(stop: type[BaseException]) -> tuple[str, int]:
    """Return message and exit status of a stop."""
    word, status = ("terminated", 143) if stop is _Terminated else ("cancelled", 130)
    return f"{word}; nothing was left half written.", status


def stop_if_asked() -> None:
    """Stop again: Python ignores what is raised where a weak reference ends, and matplotlib has many."""
    if asked_to_stop:
        raise asked_to_stop[0]


def _ignored(error: Any) -> None:
    if not issubclass(error.exc_type, tuple(STOPS.values())):
        sys.__unraisablehook__(error)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block, with everything half written removed."""
    asked_to_stop.clear()
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    # A shell that starts us in the background may have told us not to hear Ctrl-C.
    heard = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
    hook, sys.unraisablehook = sys.unraisablehook, _ignored
    before = {number: signal.signal(number, _stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook
