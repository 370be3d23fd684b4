"""How long work reports and is cancelled: one callable, `progress(fraction, message)`.

To cancel, the callable raises `Cancelled`; the engine holds no flags. It is only called from the thread that
called the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

Progress = Callable[[float, str], None]
"""Called with the finished fraction, 0 to 1 and never falling, and words for a person."""

T = TypeVar("T")


class Cancelled(Exception):  # noqa: N818 - cancelling is not an error
    """Raised by a progress callable to stop the work; not an error, so not a `ThoraxSegError`."""


def silent(fraction: float, message: str) -> None:
    """The default progress: report to nobody, never cancel."""


def part(progress: Progress, start: float, end: float) -> Progress:
    """Return the progress of one stage that owns the slice `start` to `end` of the whole bar."""

    def stage(fraction: float, message: str) -> None:
        progress(start + (end - start) * min(max(fraction, 0.0), 1.0), message)

    return stage


def each(items: Iterable[T], progress: Progress, message: str) -> Iterator[T]:
    """Yield the items, reporting before each one, so that cancelling takes at most one item."""
    sized = items if isinstance(items, Sized) else list(items)
    total = max(len(sized), 1)
    for done, item in enumerate(sized):
        progress(done / total, message)
        yield item
    progress(1.0, message)


def in_words(seconds: float) -> str:
    """Return a time to wait as a person reads it: `7 min`, `2 h 05 min`."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
