"""The live ledger of one scan: what the operator does now, with the time away from it left out and kept.

How time is counted:

- An activity (look, edit a structure, manual, wait) lasts from `begin` to the next `begin`, `pause`, verdict or
  `close`: activities never overlap, and there is no end that could be forgotten. Beginning what is going on already
  is a touch.
- Within look, edit and manual, the time since the last touch counts as work up to `idle_after_s`, and what is beyond
  it is idle until the next touch. So an absence counts as work for its first `idle_after_s`: the error is against the
  software. `begin`, `pause`, verdicts and `close` are touches too.
- wait is for the computer: it is not work, needs no touch, and is kept as waiting.
- Between activities all time is idle. Idle time is written down beside the activity it belongs to.
- Durations come from a clock that cannot be set. Where the wall clock went ahead of it by more than `JUMP_S` between
  two calls, the machine slept (or the clock was set forward): that time is idle. A wall clock set back changes no
  duration.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

from thoraxseg.errors import OptionError, ThoraxSegError
from thoraxseg.study.events import (
    ACTIVITIES,
    RUN_PARTS,
    TAKE_BACK,
    WORK,
    Event,
    Who,
    checked_run,
    checked_structure,
    save_events,
    structure_key,
)
from thoraxseg.study.store import Store, utc_stamp

logger = logging.getLogger(__name__)

IDLE_AFTER_S = 60.0
"""Few read slices for a minute without touching mouse or key; who went away is rarely back by then."""
HEARTBEAT_S = 5.0
"""A kill loses no more than this and what passed since the last touch or tick."""
HEARTBEAT_BUSY_S = 0.25
"""A touch comes from a mouse that must not stutter while another program writes."""
JUMP_S = 2.0
"""Clocks drift by milliseconds between two touches; a machine that slept was away for longer than this."""


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class Clock:
    """Two clocks: seconds that only run forward, for durations, and the time of day, for stamps."""

    seconds: Callable[[], float] = time.monotonic
    utc: Callable[[], datetime] = _utc_now


class Ledger:
    """The time one operator spends on one scan, from open to close; one per scan, used from one thread.

    A change of activity is written at once; `touch` and `tick` write at most every `heartbeat_s`. When the file cannot
    be written, a change raises OutputError, and `touch` and `tick`, which come from mouse and timer, keep the sentence
    in `problem`; either way the ledger goes on in memory and the next write brings all that is missing.
    """

    def __init__(
        self,
        store: Store,
        animal: str,
        scan: str,
        operator: str,
        *,
        idle_after_s: float = IDLE_AFTER_S,
        heartbeat_s: float = HEARTBEAT_S,
        clock: Clock | None = None,
    ) -> None:
        """Open the session and write so.

        Raises OptionError for names without text and times below 0, OutputError when the file cannot be written.
        """
        for name, value in (("idle_after_s", idle_after_s), ("heartbeat_s", heartbeat_s)):
            if not (math.isfinite(value) and value >= 0):
                raise OptionError(f"{name}: expected seconds, 0 or more, got {value:g}.")
        self.store = store
        self.who = Who(animal, scan, operator)
        self.idle_after_s = float(idle_after_s)
        self.heartbeat_s = float(heartbeat_s)
        self.problem: str | None = None
        self._clock = clock or Clock()
        self._uid = uuid.uuid4().hex
        self._events: list[Event] = []
        self._unwritten: dict[int, Event] = {}
        self._spellings: dict[str, str] = {}
        self._closed = False
        self._quiet_s = 0.0
        self._seconds, self._utc = self._clock.seconds(), self._clock.utc()
        self._opened_utc = utc_stamp(self._utc)
        self._add("open")
        self._now = self._add("idle")
        self._write()

    @property
    def uid(self) -> str:
        """What the session is called in the study file."""
        return self._uid

    @property
    def activity(self) -> tuple[str, str]:
        """What is counted now: the kind, `idle` between activities, and the structure or an empty text."""
        return self._now.kind, self._now.structure

    def begin(self, kind: str, structure: str | None = None) -> None:
        """Begin look, edit (with a structure), manual (with or without) or wait; what was going on ends.

        Raises OptionError for another kind, an edit without structure or a closed ledger, and OutputError as the class
        says.
        """
        self._refuse_if_closed(kind)
        if kind not in ACTIVITIES or kind == "idle":
            known = ", ".join(name for name in ACTIVITIES if name != "idle")
            raise OptionError(f"expected an activity among {known}, got {kind!r:.80}; 'pause' ends one.")
        structure = checked_structure(kind, structure)
        if kind == "edit" and not structure:
            raise OptionError("edit: expected the structure that is edited, such as heart.")
        structure = self._spellings.setdefault(structure_key(structure), structure)
        if self.activity == (kind, structure):
            self.touch()
            return
        self._advance(touched=True)
        self._now = self._add(kind, structure)
        self._write()

    def touch(self) -> None:
        """Say that the operator did something: moved the mouse, painted, scrolled. After `close` it says nothing."""
        if not self._closed:
            self._advance(touched=True)
            self._heartbeat()

    def tick(self) -> None:
        """Count up to now without a touch, from a timer, so that a kill loses no quiet reading either."""
        if not self._closed:
            self._advance(touched=False)
            self._heartbeat()

    def pause(self) -> None:
        """End the activity: what follows is idle until the next `begin`. Raises as `begin`."""
        self._refuse_if_closed("pause")
        self._advance(touched=True)
        self._rest()
        self._write()

    def run(
        self,
        preprocessing_s: float | None = None,
        inference_s: float | None = None,
        export_s: float | None = None,
        total_s: float | None = None,
    ) -> None:
        """Write down the seconds of an automatic run, which belong to the scan; the activity goes on.

        `total_s` is the whole run as the mouse CT paper counts it, from data preparation to exported contours;
        without it, the sum of the parts. `run_from_timings` gives all four of a case's record. Raises OptionError for
        times that do not fit, and as `begin`.
        """
        self._refuse_if_closed("run")
        times = checked_run(
            dict(zip(RUN_PARTS, (preprocessing_s, inference_s, export_s), strict=True)), total_s
        )
        self._advance(touched=False)
        event = self._add("run")
        for name, value in times.items():
            setattr(event, name, value)
        self._write()

    def accept(self) -> None:
        """The contours are good; the activity ends.

        The last verdict counts. An edit after it takes it away; contouring by hand does not.
        """
        self._judge("accept")

    def needs_work(self) -> None:
        """The contours need more work; the activity ends."""
        self._judge("needs work")

    def reject(self) -> None:
        """The contours are of no use; the activity ends."""
        self._judge("reject")

    def take_back(self) -> None:
        """The verdict was a mistake: none counts from now on; the activity ends."""
        self._judge(TAKE_BACK)

    def flush(self) -> None:
        """Count up to now without a touch and write it, however short the last time ago; after `close` too."""
        if not self._closed:
            self._advance(touched=False)
        self._write()

    def close(self) -> None:
        """End the session; again after an OutputError, it tries again to write what is missing."""
        if not self._closed:
            self._advance(touched=True)
            self._add("close")
            self._closed = True
        self._write()

    def so_far(self) -> dict[str, Any]:
        """Return the seconds of this session up to the last call, written or not.

        Keys: looking_s, editing_by_structure_s, editing_s, manual_s, waiting_s, idle_s, total_active_s, total_s.
        """
        self.tick()
        spent = {kind: sum((e.seconds for e in self._events if e.kind == kind), 0.0) for kind in ACTIVITIES}
        edits: dict[str, float] = {}
        for event in self._events:
            if event.kind == "edit":
                edits[event.structure] = edits.get(event.structure, 0.0) + event.seconds
        active = sum(spent[kind] for kind in WORK)
        idle = sum(event.idle_s for event in self._events)
        return {
            "looking_s": spent["look"],
            "editing_by_structure_s": edits,
            "editing_s": spent["edit"],
            "manual_s": spent["manual"],
            "waiting_s": spent["wait"],
            "idle_s": idle,
            "total_active_s": active,
            "total_s": active + spent["wait"] + idle,
        }

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _judge(self, kind: str) -> None:
        self._refuse_if_closed(kind)
        self._advance(touched=True)
        self._add(kind)
        self._rest()
        self._write()

    def _rest(self) -> None:
        if self._now.kind != "idle":
            self._now = self._add("idle")

    def _add(self, kind: str, structure: str = "") -> Event:
        stamp = utc_stamp(self._utc)
        event = Event(len(self._events) + 1, kind, structure, stamp, stamp)
        self._events.append(event)
        self._unwritten[event.number] = event
        return event

    def _advance(self, *, touched: bool) -> None:
        """Count what passed since the last look at the clocks to what is going on."""
        seconds, utc = self._clock.seconds(), self._clock.utc()
        passed = max(0.0, seconds - self._seconds)
        slept = (utc - self._utc).total_seconds() - passed
        slept = slept if slept > JUMP_S else 0.0
        self._seconds, self._utc = seconds, utc
        counted = passed if self._now.kind == "wait" else 0.0
        if self._now.kind in WORK:
            counted = min(passed, max(0.0, self.idle_after_s - self._quiet_s))
        self._now.seconds += counted
        self._now.idle_s += passed - counted + slept
        self._now.ended_utc = utc_stamp(utc)
        self._unwritten[self._now.number] = self._now
        self._quiet_s = 0.0 if touched else self._quiet_s + passed + slept

    def _heartbeat(self) -> None:
        if self._seconds - self._tried_at < self.heartbeat_s:
            return
        try:
            self._write(HEARTBEAT_BUSY_S)
        except ThoraxSegError as error:
            if self.problem is None:
                logger.warning("The ledger waits to be written: %s", error)
            self.problem = str(error)

    def _write(self, busy_s: float | None = None) -> None:
        self._tried_at = self._seconds
        events = [e for _, e in sorted(self._unwritten.items()) if e.kind != "idle" or e.idle_s]
        save_events(self.store, self.who, self._uid, self._opened_utc, self.idle_after_s, events, busy_s)
        self._unwritten.clear()
        self.problem = None

    def _refuse_if_closed(self, what: str) -> None:
        if self._closed:
            raise OptionError(f"{what}: this session is closed. Open a new ledger for the scan.")
