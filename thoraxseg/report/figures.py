"""Pictures of a case as PNG: slices with contours, the doubt on the same slices, and the surfaces in 3-D.

Coronal slices as a radiologist hangs them: head up, the patient's right on the left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from thoraxseg.progress import Progress, silent
from thoraxseg.report.surfaces import BACKGROUND, TEXT, draw_surfaces, to_png
from thoraxseg.segmentation import Segmentation
from thoraxseg.volume import Volume, reorient, to_ras

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from thoraxseg.report.record import Quantity

CORONAL = "LIA"
"""Columns run to the left, rows to the feet, slices to the front."""
COLUMNS, ROWS = 4, 3
WIDTH_IN, FOOT_IN = 9.0, 0.5
"""Width of a figure and height of the strip below the slices, in inches."""
LEGEND_ROW_IN, LONGEST_NAME = 0.22, 40
"""Height of one more row of the legend, and where a name in it is cut off."""
SIDES = "R \N{LEFTWARDS ARROW} coronal \N{RIGHTWARDS ARROW} L"
TALLEST_IN = 24.0
"""An extremely long or thin image gets margins, not a figure that nobody can open."""
DOUBT_VISIBLE = 0.05
"""Doubt below this fraction of its maximum is not painted, or it would veil the image."""


def draw(
    volume: Volume,
    segmentation: Segmentation,
    uncertainty: np.ndarray | None,
    quantity: Quantity | None,
    progress: Progress = silent,
) -> dict[str, bytes]:
    """Return PNG bytes by name: `contours`, `surfaces` and, with a map of doubt, `uncertainty`."""
    progress(0.0, "Drawing slices")
    image = volume.reoriented(CORONAL)
    labels, _ = reorient(segmentation.labels, segmentation.ijk_to_ras, CORONAL)
    slices = choose_slices(labels, segmentation, COLUMNS * ROWS)
    pictures = {"contours": _montage(image, labels, segmentation, slices, None, None)}
    if uncertainty is not None:
        progress(0.35, "Drawing doubt")
        doubt, _ = reorient(uncertainty, volume.ijk_to_ras, CORONAL)
        pictures["uncertainty"] = _montage(image, labels, segmentation, slices, doubt, quantity)
    progress(0.7, "Drawing surfaces")
    pictures["surfaces"] = draw_surfaces(segmentation)
    progress(1.0, "Figures are ready")
    return pictures


def choose_slices(labels: np.ndarray, segmentation: Segmentation, count: int) -> list[int]:
    """Return up to `count` slice indices k, evenly over the labeled part, with the most tumor among them.

    All slices count as labeled part when nothing is labeled.
    """
    found = np.flatnonzero(labels.any(axis=(1, 2)))
    first, last = (found[0], found[-1]) if len(found) else (0, len(labels) - 1)
    # Half a step in from both ends: the very first slice of an organ shows only its tip.
    edges = np.linspace(first, last + 1, count + 1)
    chosen = sorted({int(k) for k in (edges[:-1] + edges[1:]) / 2})
    tumors = [value for value, s in segmentation.structures.items() if s.key == "tumors"]
    area = np.isin(labels, tumors).sum(axis=(1, 2))
    if area.any():
        best = int(area.argmax())
        nearest = min(range(len(chosen)), key=lambda n: abs(chosen[n] - best))
        chosen[nearest] = best
    return sorted(set(chosen))


def _montage(
    image: Volume,
    labels: np.ndarray,
    segmentation: Segmentation,
    slices: list[int],
    doubt: np.ndarray | None,
    quantity: Quantity | None,
) -> bytes:
    from matplotlib.figure import Figure

    rows = -(-len(slices) // COLUMNS)
    _, j_mm, i_mm = image.spacing_mm
    height, width = image.shape[1] * j_mm, image.shape[2] * i_mm
    tall = min(max(WIDTH_IN / COLUMNS * rows * height / width, 1.0), TALLEST_IN)
    columns = _legend_columns(segmentation)
    legend_rows = -(-len(segmentation.structures) // columns) if doubt is None else 1
    foot_in = FOOT_IN + (legend_rows - 1) * LEGEND_ROW_IN
    figure = Figure(figsize=(WIDTH_IN, tall + foot_in), facecolor=BACKGROUND)
    foot = foot_in / (tall + foot_in)
    axes = figure.subplots(rows, COLUMNS, squeeze=False)
    shown = image.array[slices]
    low, high = np.percentile(shown, (0.5, 99.7))
    for axis in axes.flat:
        axis.set_axis_off()
    limit = quantity.maximum if quantity is not None else 1.0
    overlay = None
    for axis, k in zip(axes.flat, slices, strict=False):
        box = (0, width, height, 0)
        axis.imshow(image.array[k], cmap="gray", vmin=low, vmax=max(high, low + 1e-9), extent=box)
        if doubt is None:
            _contour(axis, labels[k], segmentation, (j_mm, i_mm))
        else:
            visible = np.ma.masked_less(doubt[k], DOUBT_VISIBLE * limit)
            overlay = axis.imshow(visible, cmap="inferno", vmin=0, vmax=limit, extent=box, alpha=0.85)
        _caption(axis, _position(image, k))
    figure.subplots_adjust(0, foot, 1, 1, 0.01, 0.01)
    if overlay is None:
        _legend(figure, segmentation, columns)
    else:
        _scale(figure, overlay, foot, quantity)
    sides = "coronal, sides assumed" if image.geometry_assumed else SIDES
    figure.text(0.01, foot / 2, sides, color=TEXT, va="center")
    return to_png(figure)


def _position(image: Volume, k: int) -> str:
    """Return where the center of slice k lies, in the words of 3D Slicer's coronal view, as `A 3.2 mm`."""
    _, rows, columns = image.shape
    front = to_ras(image.ijk_to_ras, np.array([[k, (rows - 1) / 2, (columns - 1) / 2]]))[0, 1]
    return f"{'A' if front >= 0 else 'P'} {abs(front):.1f} mm"


def _contour(
    axis: Axes, labels: np.ndarray, segmentation: Segmentation, pixel_mm: tuple[float, float]
) -> None:
    rows, columns = labels.shape
    x = (np.arange(-1, columns + 1) + 0.5) * pixel_mm[1]
    y = (np.arange(-1, rows + 1) + 0.5) * pixel_mm[0]
    for value, structure in segmentation.structures.items():
        mask = np.pad(labels == value, 1)  # closes contours at the image border
        if mask.any():
            axis.contour(x, y, mask, levels=[0.5], colors=[structure.color], linewidths=1.1)


def _caption(axis: Axes, text: str) -> None:
    from matplotlib.patheffects import withStroke

    rim = [withStroke(linewidth=2, foreground=BACKGROUND)]  # legible on bright images too
    axis.text(0.02, 0.97, text, transform=axis.transAxes, color=TEXT, fontsize=9, va="top", path_effects=rim)


def _legend_columns(segmentation: Segmentation) -> int:
    """Return how many names fit side by side, right of the words for the sides."""
    longest = max((len(_shortened(s.name)) for s in segmentation.structures.values()), default=0)
    fitting = max(1, int((WIDTH_IN - 1.6) / (0.75 + 0.08 * longest)))
    return max(1, min(fitting, len(segmentation.structures)))


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."


def _plain(name: str) -> str:
    """Return a name that matplotlib takes for no formula."""
    return _shortened(name).replace("$", r"\$")


def _legend(figure: Figure, segmentation: Segmentation, columns: int) -> None:
    from matplotlib.lines import Line2D

    structures = segmentation.structures.values()
    handles = [Line2D([], [], color=s.color, lw=3, label=_plain(s.name)) for s in structures]
    figure.legend(
        handles=handles, loc="lower right", ncols=columns, frameon=False, labelcolor=TEXT, fontsize=10
    )


def _scale(figure: Figure, overlay: object, foot: float, quantity: Quantity) -> None:
    place = figure.add_axes((0.5, 0.72 * foot, 0.46, 0.18 * foot))
    bar = figure.colorbar(overlay, cax=place, orientation="horizontal")
    what = "entropy in nat" if quantity.unit == "nat" else "spread of the folds"
    bar.set_label(f"{what} (0 = certain)", color=TEXT, fontsize=8, labelpad=1)
    bar.ax.tick_params(colors=TEXT, labelsize=7, length=2)
    bar.outline.set_visible(False)
