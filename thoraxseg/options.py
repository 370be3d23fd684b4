"""What a user can choose. One field is a command-line flag, a Slicer parameter and a web state.

Closed choices are `Enum` (Slicer's parameter nodes reject `Literal`); the value is the word users type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from thoraxseg.errors import OptionError


class Device(Enum):
    """Where the network runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Uncertainty(Enum):
    """Which map of doubt is made beside the contours."""

    ENTROPY = "entropy"
    FOLDS = "folds"
    WANG = "wang"
    MEAN_PROB = "mean-prob"
    DROPOUT = "dropout"
    NONE = "none"


class Postprocess(Enum):
    """Which clean-up follows the network."""

    CHECKPOINT = "checkpoint"
    NONE = "none"


class Mirroring(Enum):
    """Whether the networks of nnU-Net also look at mirrored copies of the image."""

    CHECKPOINT = "checkpoint"
    NONE = "none"


class Contrast(Enum):
    """Whether slices are contrast-enhanced (CLAHE) before the network sees them."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


def _option(default: Any, text: str, **limits: Any) -> Any:
    return field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True)
class SegmentOptions:
    """Everything that changes the result of `thoraxseg.pipeline.segment` besides image and checkpoint.

    A choice may be given as its word, as in `device="cpu"`. Raises OptionError for an unknown one.
    """

    device: Device = _option(
        Device.AUTO, "Where the network runs: auto takes a CUDA GPU if there is one and says so."
    )
    uncertainty: Uncertainty = _option(
        Uncertainty.ENTROPY,
        "Map of doubt: entropy of the class probabilities; spread over the folds of the checkpoint; entropy of the "
        "labels (wang) or of the mean probability (mean-prob) of augmented copies, or of the mean over random "
        "dropout, which all take as many times as long as there are samples; or none. Wang, mean-prob and "
        "dropout also decide the contours.",
    )
    samples: int = _option(20, "How many augmented copies, or looks with dropout.", low=2, high=1000)
    seed: int = _option(0, "Where the random numbers of the samples start.", low=0, high=2**32 - 1)
    mirroring: Mirroring = _option(
        Mirroring.CHECKPOINT,
        "Test-time mirroring of nnU-Net: along all axes that the checkpoint allows, as its authors do, or none, "
        "which is up to eight times faster.",
    )
    postprocess: Postprocess = _option(
        Postprocess.CHECKPOINT, "Clean-up after the network: the checkpoint's own rules, or none."
    )
    contrast: Contrast = _option(
        Contrast.AUTO,
        "Contrast enhancement (CLAHE), for checkpoints whose card offers it: auto enhances a stack that "
        "is darker than the card expects, and says so.",
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            value, kind = getattr(self, f.name), type(f.default)
            if not issubclass(kind, Enum):
                low, high = f.metadata["low"], f.metadata["high"]
                if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
                    raise OptionError(
                        f"{f.name}: expected a whole number from {low} to {high}, got {value!r}."
                    )
                continue
            try:
                object.__setattr__(self, f.name, kind(value))
            except ValueError as error:
                words = ", ".join(choice.value for choice in kind)
                raise OptionError(f"{f.name}: expected one of {words}, got {value!r}.") from error

    def to_record(self) -> dict[str, Any]:
        """Return the options as plain words and numbers for a provenance record."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value.value if isinstance(value, Enum) else value for name, value in values}


def parse_folds(text: str) -> tuple[str, ...]:
    """Return the folds named in text such as `0,1` or `all`; raises OptionError for anything else."""
    folds = tuple(part.strip().removeprefix("fold_") for part in text.split(","))
    if not all(fold == "all" or (fold.isascii() and fold.isdigit()) for fold in folds):
        raise OptionError(f"--folds: expected numbers such as 0,1,2, or all, got {text!r}.")
    if len(set(folds)) < len(folds):
        raise OptionError(f"--folds: expected different folds, got {text!r}.")
    return folds


def parse_spacing(text: str) -> tuple[float, float, float]:
    """Return (slice, row, column) spacing in mm from text such as `0.156,0.195,0.156` or `0.14`.

    Raises OptionError when it is not one or three positive finite numbers.
    """
    parts = text.replace("x", ",").split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not all(math.isfinite(n) and n > 0 for n in numbers):
        raise OptionError(
            f"--spacing: expected one or three positive numbers in mm (slice,row,column), got {text!r}. "
            "Example: --spacing 0.15625,0.1953125,0.15625"
        )
    return tuple(numbers)
