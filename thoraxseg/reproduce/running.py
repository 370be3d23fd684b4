"""Every checkpoint over every scan: a scan that fails is counted and named, and does not stop the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from thoraxseg import inference
from thoraxseg.checkpoints import Checkpoint, open_checkpoint
from thoraxseg.errors import DependencyError, OptionError, ThoraxSegError
from thoraxseg.options import SegmentOptions, Uncertainty
from thoraxseg.pipeline import segment
from thoraxseg.progress import Cancelled, Progress, part
from thoraxseg.reproduce.cohort import Cohort, Scan, read_scan, some
from thoraxseg.volume import Volume

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Model:
    """A checkpoint under the name of a row of the paper's table."""

    name: str
    checkpoint: Checkpoint
    table: str = ""
    """Where one name is a row of several tables, the one that is meant."""

    @property
    def label(self) -> str:
        """What the model is called among the others of a run."""
        return f"{self.name} ({self.table})" if self.table else self.name

    @property
    def keys(self) -> set[str]:
        """The structures that it finds."""
        return {structure.key for structure in self.checkpoint.card.labels.values()}


@dataclass(frozen=True)
class Look:
    """What a checkpoint found in one scan."""

    labels: np.ndarray
    """`(K, J, I)` uint8, under the labels that were asked for."""
    seconds: dict[str, float]
    """By stage; `total` from reading the scan to its contours."""
    device: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """A scan that a model, or everything, could not be scored on."""

    case: str
    model: str
    reason: str


@dataclass
class Log:
    """What a run has to say besides its numbers."""

    failures: list[Failure] = field(default_factory=list)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    """What to check, and in which scans."""
    devices: set[str] = field(default_factory=set)

    @contextmanager
    def attempt(self, case: str, model: str) -> Iterator[None]:
        """Keep what fails in the block as a failed scan, except what no other scan would be spared of."""
        try:
            yield
        except (Cancelled, OptionError, DependencyError):
            raise
        except ThoraxSegError as error:
            self.failures.append(Failure(case, model, str(error)))
        except Exception as error:  # libraries raise many kinds; one scan must not cost the others
            self.failures.append(Failure(case, model, f"unexpected {type(error).__name__}: {error}"))

    def add(self, model: Model, scan: Scan, look: Look) -> None:
        """Keep what was said of one scan."""
        self.devices.add(look.device)
        self.warn(model.label, scan, look.warnings)

    def warn(self, who: str, scan: Scan, texts: Iterable[str]) -> None:
        """Keep warnings of one scan; the same of many scans is said once."""
        for text in texts:
            cases = self.warnings.setdefault(f"{who}: {text}", [])
            cases += [] if scan.case in cases else [scan.case]

    def told(self) -> list[str]:
        """Return each warning with the scans that it is about."""
        return [f"{text} (In {some(cases)}.)" for text, cases in self.warnings.items()]


def parse_checkpoint(text: str) -> tuple[str, str]:
    """Return row and checkpoint of `ROW=NAME-OR-PATH`; raises OptionError for anything else."""
    row, equals, given = text.partition("=")
    if not equals or not row.strip() or not given.strip():
        raise OptionError(
            f"--checkpoint: expected ROW=CHECKPOINT, where ROW is the model's name in the paper's table, such as "
            f'"U-Net=unet.pth", got {text!r:.120}.'
        )
    return row.strip(), given.strip()


def open_models(pairs: Sequence[tuple[str, str]], lungs: str | None) -> list[Model]:
    """Return the checkpoints, opened and verified; `lungs` names the one that makes lung maps for those that need one.

    Raises CheckpointError for one that cannot be used, OptionError for `lungs` that none needs, before any work starts.
    """
    models = [Model(name, open_checkpoint(given)) for name, given in pairs]
    if lungs is None:
        return models
    map_maker = open_checkpoint(lungs)
    taking = [any(c.source == "lungs" for c in model.checkpoint.card.channels) for model in models]
    if not any(taking):
        raise OptionError("--lungs: none of these checkpoints takes a lung map.")
    return [
        replace(model, checkpoint=replace(model.checkpoint, lungs=map_maker)) if takes else model
        for model, takes in zip(models, taking, strict=True)
    ]


def check_names(models: Sequence[Model], known: Sequence[str]) -> list[str]:
    """Return a note for each model that is no row of the paper; raises OptionError for a name given twice."""
    names = [model.name for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OptionError(
            f"--checkpoint: the row {twice[0]!r} is given twice for one table; each row has one checkpoint."
        )
    return [
        f"{name} is no row of the paper's tables (they are {', '.join(known)}); it stands below them."
        for name in names
        if name not in known
    ]


def over_scans(
    model: Model,
    scans: Sequence[Scan],
    cohort: Cohort,
    options: SegmentOptions,
    score: Callable[[Scan, Volume, inference.Predictor, Progress], T],
    log: Log,
    progress: Progress,
) -> dict[str, T]:
    """Return what `score` gives for each scan by case; a scan that fails goes into `log` and is left out.

    The network is read once. Raises Cancelled, OptionError and DependencyError, which no other scan would be spared.
    """
    predictor = inference.load_predictor(model.checkpoint, options.device)
    found: dict[str, T] = {}
    for index, scan in enumerate(scans):
        span = part(progress, index / len(scans), (index + 1) / len(scans))
        span(0.0, f"{model.label}: {scan.case}")
        with log.attempt(scan.case, model.label):
            found[scan.case] = score(scan, read_scan(scan, cohort), predictor, span)
    return found


def look_at(
    volume: Volume,
    model: Model,
    predictor: inference.Predictor,
    options: SegmentOptions,
    wanted: dict[int, str],
    progress: Progress,
) -> Look:
    """Return the model's contours of an image under the labels `wanted` (label -> structure key)."""
    start = time.perf_counter()
    plain = replace(options, uncertainty=Uncertainty.NONE)
    result = segment(volume, model.checkpoint, plain, progress, predictor)
    by_key = {structure.key: label for label, structure in result.segmentation.structures.items()}
    labels = np.zeros(volume.shape, dtype=np.uint8)
    for label, key in wanted.items():
        if key in by_key:
            labels[result.segmentation.labels == by_key[key]] = label
    seconds = {**result.provenance["timings_s"], "total": time.perf_counter() - start}
    return Look(labels, seconds, result.provenance["device"], result.warnings)


def about_models(models: Sequence[Model]) -> list[dict[str, Any]]:
    """Return what identifies the checkpoints, for the record."""
    return [
        {
            "row": model.name,
            "name": model.checkpoint.card.name,
            "architecture": model.checkpoint.card.architecture.name,
            "finds": sorted(model.keys),
            "weights_sha256": [file.sha256 for file in model.checkpoint.card.weights],
            "assumed": list(model.checkpoint.assumed),
        }
        for model in models
    ]
