"""Box plots for papers: one panel per structure, one box per model, every value seen where there are few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from thoraxseg.report.publication import (
    INK,
    SERIES_COLORS,
    SOFT,
    WIDTH_IN,
    Picture,
    color_of,
    distinct,
    finite,
    new_figure,
    publication_style,
    say_nothing_to_show,
    shown,
    to_picture,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST_FOR_A_BOX = 5
"""Quartiles of fewer values are an invention."""
MOST_POINTS = 60
"""Above it, points hide the box; outliers are still drawn one by one."""
WIDE_RANGE = 30.0
"""Where the largest value is this many times the middle one, the axis becomes logarithmic."""
UNLIKE_RANGES = 8.0
"""Panels whose ranges differ by more than this get an axis of their own."""
LETTER_IN = 0.058
"""About the width of a letter of a tick's label, in inches."""
_GOLDEN = 0.6180339887498949
_NOTHING: Mapping[tuple[str, str], str] = MappingProxyType({})


@publication_style
def box_plots(
    values: Mapping[str, Mapping[str, Sequence[float | None]]],
    measure: str,
    unit: str,
    marks: Mapping[tuple[str, str], str] = _NOTHING,
) -> Picture:
    """Return boxes of `values` (structure -> model or other series -> values), one panel per structure.

    With a single series the structures stand side by side in one panel, in their own colors. The box spans
    the quartiles, whiskers reach the last value within 1.5 of the box's height, the line is the median. Up to
    60 values are drawn one by one; fewer than 5 get no box; None and nan are left out, and n below counts what
    is drawn. `marks` puts a sign, such as `*`, above the box of (structure, series).
    """
    series = list(dict.fromkeys(name for of_one in values.values() for name in of_one))
    drawn = {s: {name: finite(of_one[name]) for name in of_one} for s, of_one in values.items()}
    if len(series) <= 1:
        name = series[0] if series else ""
        panels = {"": {s: of_one.get(name, []) for s, of_one in drawn.items()}}
        colors = {s: color_of(s, n) for n, s in enumerate(drawn)}
        signs = {("", s): marks.get((s, name), "") for s in drawn}
    else:
        panels = drawn
        colors = {name: SERIES_COLORS[n % len(SERIES_COLORS)] for n, name in enumerate(series)}
        signs = dict(marks)
    boxes = max([1, *(len(of_one) for of_one in panels.values())])
    longest = max((len(name) for of_one in panels.values() for name in distinct(list(of_one))), default=0)
    down = max(1, -(-len(panels) // max(1, int(WIDTH_IN / max(1.2, 0.21 * boxes + 0.6)))))
    across = max(1, -(-len(panels) // down))
    width = WIDTH_IN if across > 1 or boxes > 8 else min(WIDTH_IN, 1.6 + 0.55 * boxes)
    is_steep = LETTER_IN * longest > (width / across - 0.6) / boxes
    figure = new_figure(0.3 + (1.85 + (LETTER_IN * longest * 0.8 if is_steep else 0)) * down, width)
    axes = figure.subplots(down, across, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    used = list(axes.flat[: len(panels)])
    wide = []
    for n, (axis, (panel, of_one)) in enumerate(zip(used, panels.items(), strict=True)):
        _boxes(axis, of_one, colors, {name: signs.get((panel, name), "") for name in of_one})
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if is_steep else {}
        axis.set_xticks(range(len(of_one)), distinct(list(of_one)), **turned)
        axis.set_title(shown(panel, 34))
        if n % across == 0:
            axis.set_ylabel(with_unit(measure, unit))
        if _is_wide([v for vs in of_one.values() for v in vs]):
            _logarithmic(axis)
            axis.set_ylabel(f"{with_unit(measure, unit)}, log axis")
            wide.append(panel)
    if len(panels) > 1 and not wide and _ranges_are_alike(panels):
        limits = [axis.dataLim.intervaly for axis in used]
        for n, axis in enumerate(used):
            _make_room(
                axis, min(low for low, _ in limits), max(high for _, high in limits), any(marks.values())
            )
            axis.tick_params(labelleft=n % across == 0)
    caption = _box_caption(series, any(marks.values()), bool(wide))
    return to_picture(figure, f"box_{measure}", f"{measure} per structure", caption)


def _box_caption(series: Sequence[str], marked: bool, logarithmic: bool) -> str:
    of = f"Of {series[0]}. " if len(series) == 1 and series[0] else ""
    words = [
        f"{of}Box: quartiles; line: median; whiskers: last value within 1.5 times the box; points: "
        f"single values (all up to n = {MOST_POINTS}, only outliers above). Fewer than {FEWEST_FOR_A_BOX} "
        "values: points alone. n: number of values."
    ]
    if logarithmic:
        words.append("Where one value would press all others to the floor, the axis is logarithmic.")
    if marked:
        words.append("Signs above the boxes: see the footnotes of the table.")
    return " ".join(words)


def _boxes(
    axis: Axes, of_one: Mapping[str, Sequence[float]], colors: Mapping[str, Any], signs: Mapping[str, str]
) -> None:
    names = list(of_one)
    for n, name in enumerate(names):
        found, color = np.sort(np.array(of_one[name])), colors[name]
        if len(found) >= FEWEST_FOR_A_BOX:
            axis.boxplot(
                found,
                positions=[n],
                widths=0.62,
                showfliers=len(found) > MOST_POINTS,
                patch_artist=True,
                manage_ticks=False,
                boxprops={"facecolor": _tint(color), "edgecolor": color, "linewidth": 0.8},
                whiskerprops={"color": color, "linewidth": 0.8},
                capprops={"color": color, "linewidth": 0.8},
                medianprops={"color": INK, "linewidth": 1.2},
                flierprops={"marker": "o", "markersize": 2, "markeredgecolor": color},
            )
        if len(found) <= MOST_POINTS:
            size = 2.4 if len(found) >= FEWEST_FOR_A_BOX else 4
            axis.plot(n + _jitter(len(found)), found, "o", ms=size, mew=0, color=color, alpha=0.75, zorder=3)
        if signs.get(name) and len(found):
            place = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom"}
            axis.annotate(shown(signs[name], 12), (n, found[-1]), fontsize=10, **place)
        _below(axis, n, str(len(found)), "center")
    if names:
        _below(axis, -0.62, "n =", "right")
    if not any(len(found) for found in of_one.values()):
        say_nothing_to_show(axis)
        axis.set_yticks([])
    axis.set_xlim(-0.6, max(len(names), 1) - 0.4)
    _make_room(axis, *axis.dataLim.intervaly, any(signs.values()))
    axis.tick_params(axis="x", length=0, pad=12)


def _make_room(axis: Axes, low: float, high: float, marked: bool) -> None:
    """Set limits a little outside of the values, with room for signs above them."""
    from matplotlib.ticker import MaxNLocator

    if low <= high:  # an empty panel has no limits
        room = (high - low) or abs(high) * 0.1 or 1.0
        axis.set_ylim(low - 0.06 * room, high + (0.2 if marked else 0.08) * room)
        axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _below(axis: Axes, x: float, text: str, side: str) -> None:
    place = {"xycoords": axis.get_xaxis_transform(), "textcoords": "offset points", "annotation_clip": False}
    axis.annotate(text, (x, 0), xytext=(0, -4), fontsize=6.5, color=SOFT, ha=side, va="top", **place)


def _jitter(count: int) -> np.ndarray:
    """Return sideways offsets for sorted values: spread evenly, the same every time."""
    return ((np.arange(count) * _GOLDEN + 0.5) % 1 - 0.5) * 0.42 if count > 1 else np.zeros(count)


def _tint(color: object) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return tuple(1 - 0.28 * (1 - c) for c in to_rgb(color))


def _is_wide(found: Sequence[float]) -> bool:
    """Tell whether a few values would press all others to the floor, as one HD95 of 118 mm does."""
    return (
        len(found) > 0 and min(found) >= 0 and max(found) > WIDE_RANGE * max(float(np.median(found)), 1e-12)
    )


def _logarithmic(axis: Axes) -> None:
    """Make the axis of a panel logarithmic; zeros lie at its foot, below a linear step."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.dataLim.intervaly
    if low > 0:
        axis.set_yscale("log")
        axis.set_ylim(low / 1.4, high * 2)
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 300 * low else (1.0,)))
    else:
        least = min(
            float(line.get_ydata()[line.get_ydata() > 0].min(initial=high)) for line in axis.get_lines()
        )
        axis.set_yscale("symlog", linthresh=least)
        axis.set_ylim(-0.3 * least, high * 2)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _ranges_are_alike(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> bool:
    spans = []
    for of_one in panels.values():
        found = [v for vs in of_one.values() for v in vs]
        if found:
            spans.append((min(found), max(found)))
    if not spans:
        return True
    whole = max(high for _, high in spans) - min(low for low, _ in spans)
    return all(whole <= UNLIKE_RANGES * (high - low) for low, high in spans)
