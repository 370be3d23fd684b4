"""What tests of a study share."""

from __future__ import annotations

import sqlite3
from functools import partial

import pytest


class Unflushed(sqlite3.Connection):
    """A connection that leaves it to the system when the disk gets the data: no test here cuts the power."""

    def execute(self, statement, *values):
        text = "PRAGMA synchronous = OFF" if "synchronous" in statement else statement
        return super().execute(text, *values)


@pytest.fixture(scope="module")
def unflushed():
    """Spare the tests that do not look at the disk the wait for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Unflushed))
        yield
