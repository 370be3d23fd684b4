"""Error maps of training images on disk, one version each time they are renewed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from thoraxseg.errors import CheckpointError, InputError
from thoraxseg.files import publish_together, safe_name
from thoraxseg.progress import Progress, each, silent
from thoraxseg.training.batch import IGNORE

_MARKER = "maps.json"
_VERSION = "epoch-"

Probabilities = Callable[[np.ndarray], np.ndarray]


class Prepared(Protocol):
    """The part of a prepared case that its error depends on."""

    id: str
    channels: np.ndarray
    labels: np.ndarray


class ErrorMaps:
    """Maps as `FOLDER/epoch-000006/CASE.npy`, `(K, J, I)` float32, made with the network that epoch 6 began with.

    A version is whole when its marker is there, which is written last; a kill before leaves the former one in use and
    this one to be made again. The former version stays until the next but one, since a run may be resumed before it.
    """

    def __init__(self, folder: Path, cases: Sequence[Prepared], error: str, every: int) -> None:
        self.folder, self._cases, self._error, self._every = Path(folder), cases, error, every
        self._version = 0
        # Numbered, since names that differ only in case are one file on some systems.
        self._names = [f"{number:05d}-{safe_name(case.id)}.npy" for number, case in enumerate(cases)]

    def of(self, case: int) -> np.ndarray | None:
        """Return the errors of a case by its index, memory-mapped, or None while they are constant."""
        if self._version == 0:
            return None
        path = self._at(self._version) / self._names[case]
        try:
            errors = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: expected an error map of this run, cannot read it: {str(error)[:200]}. Remove the folder "
                f"{path.parent.name} and start the run again."
            ) from error
        return errors

    def start_epoch(self, epoch: int, predict: Probabilities, progress: Progress = silent) -> None:
        """Use the maps that an uninterrupted run has in `epoch`; make them with `predict` if it is their turn.

        `predict` maps channels `(C, K, J, I)` to probabilities `(L, K, J, I)`. What later epochs left, of a run that
        goes on from an earlier state, is removed. Raises InputError when maps of an epoch that is past are missing,
        CheckpointError when the prediction is not finite, OutputError when the disk is full.
        """
        version = epoch - epoch % self._every
        missing = version > 0 and not self._is_whole(version)
        if missing and version != epoch:
            raise InputError(
                f"{self._at(version)}: expected the error maps that epoch {version} of this run made of the same "
                f"cases, and cannot make them anew in epoch {epoch}. Start the run again in another folder."
            )
        for other in self._versions():
            if other > version or (other == version and missing):
                shutil.rmtree(self._at(other))
        if missing:
            self._make(version, predict, progress)
        self._version = version
        for other in self._versions():
            if other < version - self._every:
                shutil.rmtree(self._at(other))

    def _make(self, version: int, predict: Probabilities, progress: Progress) -> None:
        with publish_together(self._at(version), marker=_MARKER) as scratch:
            names = dict(zip(self._names, self._cases, strict=True))
            for name in each(list(names), progress, "Looking for errors in training images"):
                case = names[name]
                errors = error_map(predict(case.channels), case.labels, self._error)
                if not np.isfinite(errors).all():
                    raise CheckpointError(
                        f"case {case.id}: expected finite probabilities for its error map, got NaN: learning has "
                        "diverged. Go on from the best network with a lower learning rate."
                    )
                np.save(scratch / name, errors)
            (scratch / _MARKER).write_text(
                json.dumps(self._record(version), indent=1) + "\n", encoding="utf-8"
            )

    def _is_whole(self, version: int) -> bool:
        try:
            return json.loads((self._at(version) / _MARKER).read_text("utf-8")) == self._record(version)
        except (OSError, ValueError):
            return False

    def _record(self, version: int) -> dict:
        cases = {
            name: [case.id, *case.labels.shape] for name, case in zip(self._names, self._cases, strict=True)
        }
        return {"epoch": version, "error": self._error, "cases": cases}

    def _at(self, version: int) -> Path:
        return self.folder / f"{_VERSION}{version:06d}"

    def _versions(self) -> list[int]:
        found = (path.name.removeprefix(_VERSION) for path in self.folder.glob(f"{_VERSION}*"))
        return sorted(int(one) for one in found if one.isdigit())


def error_map(probabilities: np.ndarray, labels: np.ndarray, error: str) -> np.ndarray:
    """Return `(K, J, I)` float32 errors, 0 to 1, of probabilities `(L, K, J, I)`; 0 where labels are `IGNORE`.

    With y the one-hot truth, `absolute` is Σ_l |y_l - p_l| / 2, `squared` Σ_l (y_l - p_l)² / 2: |y - p| and its square
    for one structure on background.
    """
    total = np.zeros(labels.shape, dtype=np.float32)
    for plane, truth, p in zip(total, labels, np.moveaxis(probabilities, 1, 0), strict=True):
        off = np.abs((truth == np.arange(len(p)).reshape(-1, *[1] * truth.ndim)) - p)
        plane[:] = np.where(truth == IGNORE, 0, (off if error == "absolute" else off * off).sum(axis=0) / 2)
    return total
