"""What a training run looks like: the largest tumor of a validation image as the network sees it, learning curves.

After the coursework on ensembles of 3-D U-Nets: the slice with the largest tumor, as image, truth, logits, prediction.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.files import publish_together
from thoraxseg.training.batch import IGNORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_IN = 2.6
DPI = 110
MAX_LOGIT = 10.0
"""Logits are shown from minus to plus this; 10 is a probability of 0.99995."""
_COLORS = ("#e6550d", "#3182bd", "#31a354", "#756bb1", "#d6616b", "#8c6d31", "#17becf", "#e377c2")


def largest_slice(labels: np.ndarray, label: int | None) -> tuple[int, int]:
    """Return the slice along k where `label` covers most of `(K, J, I)` labels, and how many voxels that are.

    With None, all labels but background and `IGNORE` count. Without any, it is the middle slice with 0 voxels.
    """
    counted = (labels > 0) & (labels != IGNORE) if label is None else labels == label
    areas = counted.sum(axis=(1, 2))
    return (int(areas.argmax()), int(areas.max())) if areas.max() > 0 else (len(labels) // 2, 0)


def log_odds(probability: np.ndarray) -> np.ndarray:
    """Return ln(p / (1 - p)), within plus and minus `MAX_LOGIT`: the logit of a sigmoid with that probability."""
    p = np.clip(probability.astype(np.float64), 1e-12, 1 - 1e-12)
    return np.clip(np.log(p) - np.log1p(-p), -MAX_LOGIT, MAX_LOGIT)


def draw_validation(
    path: Path,
    image: np.ndarray,
    truth: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    label: int,
    spacing_mm: tuple[float, float],
    title: str,
) -> Path:
    """Write a picture (PNG) of one slice: image, truth, logits of `label`, prediction; returns its path.

    `image` and `truth` are `(J, I)`, `probabilities` `(L, J, I)`; `names` are those of labels 1 and up, `spacing_mm` is
    along (j, i). Raises OutputError when it cannot be written.
    """
    low, high = np.percentile(image, (0.5, 99.5))
    shown = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    aspect = spacing_mm[0] / spacing_mm[1]
    height = PANEL_IN * np.clip(image.shape[0] * aspect / image.shape[1], 0.4, 2.0)
    figure = _figure(4 * PANEL_IN + 0.7, float(height) + 0.95)
    axes = figure.subplots(1, 4)
    prediction = probabilities.argmax(axis=0)
    pictures = (
        ("Image", None),
        ("Truth", truth),
        (f"Logit of {names[label - 1]}", None),
        ("Prediction", prediction),
    )
    for axis, (words, labels) in zip(axes, pictures, strict=True):
        axis.set_title(words, fontsize=9)
        axis.set_axis_off()
        if words.startswith("Logit"):
            logits = axis.imshow(
                log_odds(probabilities[label]), cmap="RdBu_r", vmin=-MAX_LOGIT, vmax=MAX_LOGIT, aspect=aspect
            )
            figure.colorbar(logits, ax=axis, fraction=0.046, pad=0.03, shrink=0.75).ax.tick_params(
                labelsize=7
            )
        else:
            axis.imshow(shown, cmap="gray", vmin=0, vmax=1, aspect=aspect)
            if labels is not None:
                axis.imshow(_overlay(labels, len(names)), aspect=aspect, interpolation="nearest")
    present = [n for n in range(1, len(names) + 1) if (truth == n).any() or (prediction == n).any()]
    _legend(figure, [names[n - 1] for n in present], [_COLORS[(n - 1) % len(_COLORS)] for n in present])
    figure.suptitle(title, fontsize=10)
    return _save(figure, path)


def draw_curves(log: Path, path: Path) -> Path:
    """Write the learning curves (PNG) of a run's log.csv: losses, validation Dice, learning rate; returns its path.

    Raises InputError for a file that is no such log, OutputError when the picture cannot be written.
    """
    rows = read_log(log)
    figure = _figure(9.6, 3.2)
    losses, scores = figure.subplots(1, 2)
    _plot(losses, rows, ["train_loss", "val_loss"], "Loss")
    dice = [key for key in rows[0] | rows[-1] if key.startswith("val_") and "dice" in key]
    _plot(scores, rows, dice, "Dice of whole validation images")
    scores.set_ylim(0, 1)
    rate = losses.twinx()
    rate.plot(*_column(rows, "lr"), color="#bbbbbb", linewidth=0.8)
    rate.set_yscale("log")
    rate.set_ylabel("learning rate", fontsize=8, color="#888888")
    rate.tick_params(which="both", labelsize=6, colors="#888888")
    return _save(figure, path)


def read_log(log: Path) -> list[dict[str, float | None]]:
    """Return the rows of a run's log, None where a cell is empty; InputError where it cannot be read."""
    try:
        with Path(log).open(encoding="utf-8", newline="") as file:
            rows = [
                {key: float(cell) if cell else None for key, cell in row.items()}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{log}: expected the log of a training run, cannot read it: {error}.") from error
    if not rows:
        raise InputError(f"{log}: expected the log of a training run, got one without an epoch.")
    return rows


def _plot(axis: Axes, rows: list[dict[str, float | None]], keys: Sequence[str], title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for number, key in enumerate(keys):
        epochs, values = _column(rows, key)
        if epochs:
            main = key in ("train_loss", "val_loss", "val_dice")
            style = {"linewidth": 1.8 if main else 0.9, "alpha": 1.0 if main else 0.8}
            marker = "o" if len(epochs) == 1 else None
            words = key.removeprefix("val_dice_").removeprefix("val_").replace("_", " ")
            words = {"dice": "mean", "loss": "validation", "train loss": "training"}.get(words, words)
            axis.plot(
                epochs, values, color=_COLORS[number % len(_COLORS)], label=words, marker=marker, **style
            )
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("epoch", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(fontsize=7)


def _column(rows: list[dict[str, float | None]], key: str) -> tuple[list[float], list[float]]:
    found = [(row["epoch"] + 1, row[key]) for row in rows if row.get(key) is not None]
    return [epoch for epoch, _ in found], [value for _, value in found]


def _overlay(labels: np.ndarray, classes: int) -> np.ndarray:
    from matplotlib.colors import to_rgba

    picture = np.zeros((*labels.shape, 4))
    for label in range(1, classes + 1):
        picture[labels == label] = to_rgba(_COLORS[(label - 1) % len(_COLORS)], 0.5)
    picture[labels == IGNORE] = (1.0, 1.0, 1.0, 0.35)
    return picture


def _legend(figure: Figure, names: Sequence[str], colors: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    if names:
        handles = [Patch(color=color, label=name) for name, color in zip(names, colors, strict=True)]
        figure.legend(
            handles=handles, loc="lower center", ncol=min(len(handles), 6), fontsize=8, frameon=False
        )


def _figure(width_in: float, height_in: float) -> Figure:
    # Without pyplot there is no global state, no window, and Agg draws.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    path = Path(path)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    with publish_together(path.parent) as scratch:
        (scratch / path.name).write_bytes(picture.getvalue())
    return path
