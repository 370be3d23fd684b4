"""How long a run will take, from how long earlier ones of the same kind took on this machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from thoraxseg.checkpoints import home
from thoraxseg.errors import OutputError
from thoraxseg.files import publish_together
from thoraxseg.options import SegmentOptions, Uncertainty

logger = logging.getLogger(__name__)

TIMES_FILE = "job-times.json"
"""In `thoraxseg.checkpoints.home()`."""
MAX_KINDS = 200
"""As many kinds of runs are remembered; the longest not seen is forgotten first."""
_SAMPLED = {Uncertainty.WANG, Uncertainty.MEAN_PROB, Uncertainty.DROPOUT}


class Expected:
    """How long a run will take, from earlier ones with the same checkpoint, device, mirroring and kind of doubt."""

    def __init__(self, checkpoint: str, options: SegmentOptions, voxels: int, is_warm: bool) -> None:
        """`is_warm` says that the model is loaded, so that only the voxels that are looked at take time."""
        samples = options.samples if options.uncertainty in _SAMPLED else 1
        self._key = " | ".join((checkpoint, options.device.value, options.mirroring.value, str(samples)))
        self._voxels, self._is_warm = voxels, is_warm
        self._earlier = _read_times().get(self._key)
        self.seconds: float | None = None
        """The whole time; None where nothing is known."""
        if self._earlier is not None:
            starting = 0.0 if is_warm else self._earlier["starting_s"]
            self.seconds = self._earlier["seconds_per_voxel"] * voxels + starting

    def remember(self, elapsed_s: float, timings_s: Mapping[str, float]) -> None:
        """Keep how long it took; a run with the model loaded tells nothing new of starting and loading."""
        worked = sum(timings_s.values()) - timings_s["load_checkpoint"]
        starting = max(elapsed_s - worked, 0.0)
        if self._is_warm and self._earlier is not None:
            starting = self._earlier["starting_s"]
        _write_times(self._key, {"seconds_per_voxel": worked / self._voxels, "starting_s": starting})


def _read_times() -> dict[str, dict[str, float]]:
    """Return what is remembered; what is damaged counts as forgotten."""
    try:
        content = json.loads((home() / TIMES_FILE).read_text("utf-8"))
        return {
            str(key): {name: float(one[name]) for name in ("seconds_per_voxel", "starting_s")}
            for key, one in content.items()
            if all(0 <= one[name] < 1e9 for name in ("seconds_per_voxel", "starting_s"))
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _write_times(key: str, times: dict[str, float]) -> None:
    """Remember the times of one kind of request, among others; a disk that cannot be written does not matter."""
    known = {other: known for other, known in _read_times().items() if other != key}
    kept = dict([*known.items(), (key, times)][-MAX_KINDS:])
    try:
        with publish_together(home()) as scratch:
            (scratch / TIMES_FILE).write_text(json.dumps(kept, indent=1), encoding="utf-8")
    except OutputError as error:
        logger.debug("The time was not remembered: %s", error)
