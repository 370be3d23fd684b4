"""What the training loop needs to know, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from thoraxseg.errors import OptionError

PRECISIONS = ("float32", "bfloat16", "float16")
SCORES = ("dice", "loss")


@dataclass(frozen=True)
class Settings:
    """How long, how, and by what a network learns.

    Raises OptionError for a value that cannot be used, naming it.
    """

    epochs: int
    steps_per_epoch: int
    """Steps of the optimizer in one epoch, after which the run is saved."""
    loss: Mapping[str, Any]
    """`name` and parameters of the loss."""
    optimizer: Mapping[str, Any] = field(default_factory=lambda: {"name": "adam", "lr": 1e-3})
    schedule: Mapping[str, Any] = field(default_factory=lambda: {"name": "constant"})
    accumulate: int = 1
    """Batches whose gradients are summed before one step of the optimizer."""
    precision: str = "float32"
    """`float32`, or mixed with `bfloat16` or, on a GPU, `float16`."""
    ema: float | None = None
    """Decay of a running average of the weights, which is then what is validated and kept."""
    clip_norm: float | None = None
    """Largest norm of the gradient."""
    score: str = "dice"
    """What the best epoch is best in: the highest validation `dice` or the lowest `loss`."""
    validate_every: int = 1
    """Epochs from one validation to the next; the last epoch is always validated."""
    patience: int | None = None
    """Early stopping: so many epochs without a better score end the run."""
    stop_at: float | None = None
    """A score that suffices: reaching it ends the run."""
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "accumulate", "validate_every"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            _check(self, name, whole and value > 0, "a whole number of 1 or more")
        _check(self, "precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
        _check(self, "score", self.score in SCORES, f"one of {', '.join(SCORES)}")
        _check(self, "device", self.device in ("auto", "cpu", "cuda"), "auto, cpu or cuda")
        _check(self, "seed", isinstance(self.seed, int) and self.seed >= 0, "a whole number of 0 or more")
        _check(self, "ema", self.ema is None or 0 < self.ema < 1, "a number between 0 and 1")
        for name in ("clip_norm", "patience"):
            value = getattr(self, name)
            _check(self, name, value is None or 0 < value < math.inf, "a number above 0, or nothing")
        number = isinstance(self.stop_at, (int, float)) and math.isfinite(self.stop_at)
        _check(self, "stop_at", self.stop_at is None or number, "a number, or nothing")
        for name in ("loss", "optimizer", "schedule"):
            _check(self, name, "name" in getattr(self, name), "a name and parameters")

    def to_record(self) -> dict[str, Any]:
        """Return all values as plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> Settings:
        """Return the settings in plain data; raises OptionError naming a key that is not known or missing."""
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise OptionError(
                f"settings: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}."
            )
        try:
            return cls(**data)
        except TypeError as error:
            raise OptionError(f"settings: {error}.") from error


def _check(settings: Settings, name: str, good: bool, expected: str) -> None:
    if not good:
        raise OptionError(f"settings.{name}: expected {expected}, got {getattr(settings, name)!r}.")
