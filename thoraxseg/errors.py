"""Every error a user can meet: ours and a built-in, with the exit status that the shell returns.

A message says what was expected, what came, and what to do. Shells catch `ThoraxSegError` once.
"""

from __future__ import annotations


class ThoraxSegError(Exception):
    """Base of all errors that ThoraxSeg raises on purpose."""

    exit_status = 1


class OptionError(ThoraxSegError, ValueError):
    """An option or setting has a value that cannot be used."""

    exit_status = 2


class InputError(ThoraxSegError, ValueError):
    """An image, mask or table is missing, damaged or not of the expected kind."""

    exit_status = 3


class CheckpointError(ThoraxSegError, ValueError):
    """A checkpoint is unknown, damaged, not the file its card describes, or does not fit the image."""

    exit_status = 4


class OutputError(ThoraxSegError, OSError):
    """A result could not be written whole; nothing was left under a final name."""

    exit_status = 5


class DownloadError(ThoraxSegError, ConnectionError):
    """Something asked for could not be fetched."""

    exit_status = 6


class DependencyError(ThoraxSegError, ImportError):
    """A Python package or a device that this step needs is not there."""

    exit_status = 7


class DeviceMemoryError(DependencyError):
    """The GPU has too little free memory."""


EXIT_STATUS = {
    0: "success",
    1: "an unexpected error (a defect: please report it)",
    2: "wrong option or usage",
    3: "the input cannot be used",
    4: "the checkpoint cannot be used",
    5: "the output cannot be written",
    6: "a download failed",
    7: "a package or device is missing",
    130: "cancelled with Ctrl-C",
    143: "terminated",
}
"""Meaning of every exit status of the command line."""
