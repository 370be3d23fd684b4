"""Where observers disagree, on the slices where they do so most: each one's contours, and the share of pairs.

Coronal slices as a radiologist hangs them: head up, the patient's right on the left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from thoraxseg.report.figures import CORONAL
from thoraxseg.report.publication import (
    FAINT,
    INK,
    SERIES_COLORS,
    WIDTH_IN,
    Picture,
    columns_of,
    distinct,
    publication_style,
    say_nothing_to_show,
    to_picture,
)
from thoraxseg.segmentation import Structure
from thoraxseg.volume import reorient, spacing_mm, to_ras

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SLICES = 4
MARGIN, LEAST_MARGIN = 0.12, 4
"""Room left around the structures: a share of their extent, and voxels at least."""
LINES = ("-", (0, (3, 1.2)), (0, (1, 1)))
"""A second round through the colors is dashed, a third dotted."""
FINEST_LINE, LINE_STEP, WIDEST_LINE = 0.7, 0.8, 2.0
"""In points. The first observer's line is the widest, so that it is seen below those that run along it."""
LONGEST_SHAPE = 2.5
"""A panel gets room at its sides beyond this ratio of its edges."""
_PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
"""What words in a panel lie on: a rim around letters would turn them into outlines in the SVG."""
TALLEST_PANEL_IN, WIDEST_PANEL_IN = 2.8, 2.8


@publication_style
def disagreement_montage(
    label_maps: Sequence[np.ndarray],
    names: Sequence[str],
    structures: Mapping[int, Structure],
    ijk_to_ras: np.ndarray,
    image: np.ndarray | None = None,
    disagreement: np.ndarray | None = None,
    *,
    sides_assumed: bool = False,
    who: str = "observers",
) -> Picture:
    """Return the coronal slices with most disagreement between `label_maps`, arrays `(K, J, I)` on one grid.

    Each observer's contours have one color; below them lies `image` `(K, J, I)` or, without one, the share of
    observers that marked the voxel as any structure. `disagreement` `(K, J, I)`, 0 to 1, becomes a second row.
    Where all agree, slices are spread evenly over what is marked. `who` says in the caption whose maps they are.
    """
    maps = [reorient(one, ijk_to_ras, CORONAL)[0] for one in label_maps]
    marks = np.zeros(maps[0].shape, np.uint16)
    for one in maps:
        marked = np.zeros(one.shape, bool)
        for label in structures:  # np.isin would make copies of the whole volume in wider types
            marked |= one == label
        marks += marked
    below, matrix = reorient(label_maps[0] if image is None else image, ijk_to_ras, CORONAL)
    heat = None if disagreement is None else reorient(disagreement, ijk_to_ras, CORONAL)[0]
    doubt = _unlike(maps) if heat is None else heat
    slices = slices_of_disagreement(doubt, marks > 0)
    window = _window((marks[slices] > 0).any(axis=0), matrix)
    shown_below = marks[slices] / len(maps) if image is None else below[slices]
    shades = _shades(shown_below, image is None)
    box = _box(window, matrix)
    view = _view(box)
    figure, axes = _panels(len(slices), 1 if heat is None else 2, view, names)
    for column, k in enumerate(slices):
        axes[0, column].imshow(shown_below[column][window], extent=box, **shades)
        _contours(axes[0, column], [one[k][window] for one in maps], list(structures), box)
        axes[0, column].set_title(_position(matrix, below.shape, k), fontsize=7.5, fontweight="normal", pad=2)
        if heat is not None:
            axes[1, column].imshow(shown_below[column][window], extent=box, **shades)
            visible = np.ma.masked_less_equal(heat[k][window], 0)
            overlay = axes[1, column].imshow(visible, cmap="YlOrRd", vmin=0, vmax=1, extent=box)
    for axis in axes.flat:
        axis.set(xlim=view[:2], ylim=view[2:])
    _scale_bar(axes[0, -1], view)
    if heat is not None:
        bar = figure.colorbar(overlay, ax=axes, shrink=0.42, anchor=(0, 0.04), aspect=14, pad=0.01)
        bar.set_label("share of pairs\nthat differ", fontsize=7)
        bar.ax.tick_params(labelsize=6.5)
        bar.outline.set_visible(False)
    for axis in axes[:, 0]:
        _sides(axis, "?" if sides_assumed else "")
    if not marks.any():
        say_nothing_to_show(axes[0, 0], "nothing is marked")
    which = (
        "with most disagreement, apart from one another"
        if doubt[slices].any()
        else "evenly spread, all alike"
    )
    caption = (
        f"{len(slices)} coronal slices of {len(names)} {who}, {which}; "
        f"{_caption(structures, sides_assumed, who if image is None else None)}"
    )
    return to_picture(figure, "disagreement", f"Where the {who} disagree", caption)


def slices_of_disagreement(doubt: np.ndarray, marked: np.ndarray, count: int = MOST_SLICES) -> list[int]:
    """Return up to `count` slice indices k with the largest sums of `doubt`, apart from one another, in order.

    Neighbors look alike, so a slice keeps others off for an eighth of the marked part. Without any doubt,
    slices are spread evenly over the marked part, or over all slices where nothing is marked.
    """
    total = doubt.sum(axis=(1, 2), dtype=np.float64)
    found = np.flatnonzero(marked.any(axis=(1, 2)))
    first, last = (int(found[0]), int(found[-1])) if len(found) else (0, len(marked) - 1)
    if not total.any():
        edges = np.linspace(first, last + 1, count + 1)
        return sorted({int(k) for k in (edges[:-1] + edges[1:]) / 2})
    apart = max(1, (last - first + 1) // 8)
    chosen: list[int] = []
    for k in np.argsort(-total, kind="stable"):
        if total[k] > 0 and len(chosen) < count and all(abs(int(k) - other) >= apart for other in chosen):
            chosen.append(int(k))
    return sorted(chosen)


def _unlike(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Return a bool array `(K, J, I)`, True where not all label maps say the same."""
    differs = np.zeros(maps[0].shape, bool)
    for one in maps[1:]:
        differs |= one != maps[0]
    return differs


def _window(marked: np.ndarray, matrix: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and columns to show: what is marked `(J, I)` with a margin, or all when nothing is."""
    if not marked.any():
        return slice(0, marked.shape[0]), slice(0, marked.shape[1])
    steps = spacing_mm(matrix)[1:]
    ends = [np.flatnonzero(marked.any(axis=1 - axis))[[0, -1]] for axis in (0, 1)]
    margin_mm = MARGIN * max(
        (last - first + 1) * step for (first, last), step in zip(ends, steps, strict=True)
    )
    rows, columns = (
        slice(
            max(0, int(first) - max(LEAST_MARGIN, round(margin_mm / step))),
            min(size, int(last) + 1 + max(LEAST_MARGIN, round(margin_mm / step))),
        )
        for (first, last), step, size in zip(ends, steps, marked.shape, strict=True)
    )
    return rows, columns


def _box(window: tuple[slice, slice], matrix: np.ndarray) -> tuple[float, float, float, float]:
    """Return left, right, bottom, top of the window in mm from its upper left corner."""
    _, j_mm, i_mm = spacing_mm(matrix)
    rows, columns = window
    return 0.0, (columns.stop - columns.start) * i_mm, (rows.stop - rows.start) * j_mm, 0.0


def _view(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Return the box with room at its sides where it is very long or very thin."""
    _, width, height, _ = box
    aside = max(0.0, height / LONGEST_SHAPE - width) / 2
    above = max(0.0, width / LONGEST_SHAPE - height) / 2
    return -aside, width + aside, height + above, -above


def _panels(
    columns: int, rows: int, view: tuple[float, float, float, float], names: Sequence[str]
) -> tuple[Figure, np.ndarray]:
    """Return a figure with empty panels of the shape of `view` and a legend of the observers."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    room = 0.75 if rows > 1 else 0.1  # for the scale of the second row
    wide = min((WIDTH_IN - room) / columns, WIDEST_PANEL_IN)
    shape = (view[2] - view[3]) / (view[1] - view[0])
    tall = min(wide * shape, TALLEST_PANEL_IN)
    wide = min(wide, tall / shape)
    width = max(wide * columns + room, 2.4)
    labels = distinct(names)
    columns_of_names = columns_of(labels, width)
    tall_legend = 0.17 * -(-len(labels) // columns_of_names) + 0.1
    figure = Figure(figsize=(width, (tall + 0.03) * rows + 0.17 + tall_legend), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0.01, hspace=0.01)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set(visible=True, color=FAINT)
    handles = [Line2D([], [], label=labels[n], **line_of(n, len(names))) for n in range(len(names))]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns_of_names)
    return figure, axes


def _shades(values: np.ndarray, is_share: bool) -> dict[str, object]:
    from matplotlib.colors import LinearSegmentedColormap

    if is_share:
        grays = LinearSegmentedColormap.from_list("share", ["white", "#b9bec5"])
        return {"cmap": grays, "vmin": 0, "vmax": 1}
    low, high = np.percentile(values, (0.5, 99.7))
    return {"cmap": "gray", "vmin": low, "vmax": max(high, low + 1e-9)}


def line_of(n: int, count: int) -> dict[str, object]:
    """Return color, width and dashes of observer `n` of `count`."""
    widest = min(WIDEST_LINE, FINEST_LINE + LINE_STEP * (count - 1))
    return {
        "color": SERIES_COLORS[n % len(SERIES_COLORS)],
        "lw": widest + (FINEST_LINE - widest) * n / max(count - 1, 1),
        "ls": LINES[n // len(SERIES_COLORS) % len(LINES)],
    }


def _contours(
    axis: Axes, slices: Sequence[np.ndarray], values: Sequence[int], box: tuple[float, float, float, float]
) -> None:
    for n, labels in enumerate(slices):
        rows, columns = labels.shape
        x = (np.arange(-1, columns + 1) + 0.5) * box[1] / columns
        y = (np.arange(-1, rows + 1) + 0.5) * box[2] / rows
        line = line_of(n, len(slices))
        for value in values:
            mask = np.pad(labels == value, 1)  # closes contours at the border
            if mask.any():
                axis.contour(
                    x,
                    y,
                    mask,
                    levels=[0.5],
                    colors=[line["color"]],
                    linewidths=line["lw"],
                    linestyles=[line["ls"]],
                )


def _position(matrix: np.ndarray, shape: tuple[int, ...], k: int) -> str:
    _, rows, columns = shape
    front = to_ras(matrix, np.array([[k, (rows - 1) / 2, (columns - 1) / 2]]))[0, 1]
    return f"{'A' if front >= 0 else 'P'} {abs(front):.1f} mm"


def _sides(axis: Axes, doubt: str) -> None:
    """Write R and L on the sides of the patient, as on a film."""
    from matplotlib.patheffects import withStroke

    for x, side in ((0.03, "R"), (0.97, "L")):
        text = axis.text(x, 0.96, side + doubt, transform=axis.transAxes, ha="left" if x < 0.5 else "right")
        text.set(fontsize=8, va="top", path_effects=[withStroke(linewidth=2.5, foreground="white")])


def _sides(axis: Axes, doubt: str) -> None:
    """Write R and L on the sides of the patient, as on a film."""
    from matplotlib.patheffects import withStroke

    for x, side in ((0.03, "R"), (0.97, "L")):
        text = axis.text(x, 0.96, side + doubt, transform=axis.transAxes, ha="left" if x < 0.5 else "right")
        text.set(fontsize=8, va="top", path_effects=[withStroke(linewidth=2.5, foreground="white")])


def _scale_bar(axis: Axes, view: tuple[float, float, float, float]) -> None:
    """Draw a bar of a round length, at most a third of the panel, into its lower right corner."""
    width, height = view[1] - view[0], view[2] - view[3]
    power = 10.0 ** np.floor(np.log10(width / 3))
    length = next(step * power for step in (5, 2, 1) if step * power <= width / 3)
    right, low = view[1] - 0.05 * width, view[2] - 0.05 * height
    for color, thick in (("white", 3.0), (INK, 1.6)):
        axis.plot((right - length, right), (low, low), color=color, lw=thick, solid_capstyle="butt")
    axis.annotate(
        f"{length:g} mm", (right, low), xytext=(0, 4), textcoords="offset points", ha="right", va="bottom",
        fontsize=6.5, bbox=_PAPER,
    )  # fmt: skip


def _sides(axis: Axes, doubt: str) -> None:
    """Write R and L on the sides of the patient, as on a film."""
    for x, side in ((0.03, "R"), (0.97, "L")):
        axis.text(
            x, 0.96, side + doubt, transform=axis.transAxes, ha="left" if x < 0.5 else "right", va="top",
            fontsize=7.5, bbox=_PAPER,
        )  # fmt: skip


def _caption(structures: Mapping[int, Structure], sides_assumed: bool, counted: str | None) -> str:
    sides = "sides assumed" if sides_assumed else "the patient's right on the left"
    organs = ", ".join(structure.name for structure in structures.values())
    below = f" Gray: share of the {counted} that marked the voxel." if counted else ""
    return (
        f"head up, {sides}; A or P, millimeters before or behind the origin. Contours: {organs}, a color "
        f"for each set.{below}"
    )
