"""Plots for papers, each as PNG and SVG: Bland-Altman, paired differences, agreement matrix, times, and the rest.

White ground, one look; the caption goes beside the figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from thoraxseg.report.boxes import box_plots
from thoraxseg.report.montage import disagreement_montage
from thoraxseg.report.publication import (
    FAINT,
    INK,
    SERIES_COLORS,
    SERIES_MARKERS,
    SOFT,
    WIDTH_IN,
    Picture,
    color_of,
    columns_of,
    distinct,
    figures_of,
    new_figure,
    publication_style,
    say_nothing_to_show,
    shown,
    to_picture,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Picture",
    "agreement_matrix",
    "bland_altman_plot",
    "box_plots",
    "disagreement_montage",
    "paired_plot",
]


@publication_style
def bland_altman_plot(
    reference: Sequence[float | None],
    prediction: Sequence[float | None],
    unit: str,
    limits: Mapping[str, float | None],
    title: str,
    names: Sequence[str] | None = None,
    sides: tuple[str, str] = ("reference", "prediction"),
) -> Picture:
    """Return differences, prediction minus reference, over the mean of both, with bias and limits of agreement.

    `sides` are what the two are called where they are not reference and prediction: second minus first.
    `limits` has `bias`, `low`, `high` (bias -+ 1.96 SD) and, for the band, `bias_low` and `bias_high`, all in
    `unit`; what is None is not drawn. `names` is one name per pair, of its structure or group, which gets its
    color. Pairs with a missing side are left out. Source: Bland and Altman 1986.
    """
    pairs = [
        (float(r), float(p), names[n] if names is not None else "")
        for n, (r, p) in enumerate(zip(reference, prediction, strict=True))
        if r is not None and p is not None and math.isfinite(r) and math.isfinite(p)
    ]
    figure = new_figure(3.1, 4.9)
    axis = figure.subplots()
    groups = list(dict.fromkeys(group for _, _, group in pairs))
    for n, group in enumerate(groups):
        found = np.array([(r, p) for r, p, of in pairs if of == group])
        axis.plot(
            found.mean(axis=1),
            found[:, 1] - found[:, 0],
            SERIES_MARKERS[n % len(SERIES_MARKERS)],
            color=color_of(group, n),
            ms=3.6,
            mew=0.4,
            mec="white",
            label=distinct(groups)[n],
            zorder=3,
        )
    axis.axhline(0, color=FAINT, lw=0.8, zorder=0)
    if limits.get("bias_low") is not None and limits.get("bias_high") is not None:
        axis.axhspan(limits["bias_low"], limits["bias_high"], color="#0072B2", alpha=0.13, lw=0, zorder=0)
    _limit_lines(axis, limits)
    first, second = distinct(sides, 18)
    axis.set_xlabel(with_unit(f"Mean of {first} and {second}", unit, 60))
    axis.set_ylabel(with_unit(f"{second} \N{MINUS SIGN} {first}", unit, 46))
    axis.set_title(f"{shown(title, 60)}  (n = {len(pairs)})", loc="left")
    axis.margins(0.08, 0.12)
    _plain_ticks(axis)
    if not pairs:
        say_nothing_to_show(axis)
        axis.set(xticks=[], yticks=[])
    if groups not in ([], [""]):
        columns = columns_of(distinct(groups), 4.9)
        figure.legend(loc="outside lower center", ncols=columns, handletextpad=0.2)
    return to_picture(
        figure, f"bland_altman_{title}", f"Bland-Altman: {title}", _limits_caption(limits, unit, sides)
    )


def _limit_lines(axis: Axes, limits: Mapping[str, float | None]) -> None:
    for key, words, dashes in (
        ("high", "upper limit", "--"),
        ("bias", "bias", "-"),
        ("low", "lower limit", "--"),
    ):
        value = limits.get(key)
        if value is None:
            continue
        axis.axhline(value, color=INK, lw=0.9, ls=dashes, zorder=1)
        text = f"{words}\n{figures_of(value)}"
        axis.annotate(
            text, (1, value), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            fontsize=7, va="center", annotation_clip=False,
        )  # fmt: skip


def _limits_caption(limits: Mapping[str, float | None], unit: str, sides: tuple[str, str]) -> str:
    def said(key: str) -> str:
        return figures_of(limits[key]) if limits.get(key) is not None else "undefined"

    of = f" {unit}" if unit not in ("", "1") else ""
    words = f"Difference, {sides[1]} minus {sides[0]}, over the mean of both. Bias {said('bias')}{of}"
    if limits.get("bias_low") is not None and limits.get("bias_high") is not None:
        words += f" (95 % confidence {said('bias_low')} to {said('bias_high')}{of}, band)"
    return f"{words}; limits of agreement, 1.96 SD from it, {said('low')} to {said('high')}{of} (dashed)."


def _plain_ticks(axis: Axes) -> None:
    """Write large numbers out, as 12,000, rather than with a power in the corner."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for one in (axis.xaxis, axis.yaxis):
        one.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        one.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,.10g}".replace("-", "\N{MINUS SIGN}"))
        )


@publication_style
def paired_plot(
    a: Sequence[float | None],
    b: Sequence[float | None],
    names: Sequence[str],
    name_a: str,
    name_b: str,
    measure: str,
    unit: str,
    test_words: str,
    effect: tuple[float | None, float | None, float | None] | None = None,
) -> Picture:
    """Return two panels: each pair of `a` and `b` joined by a line, and the differences a - b in their order.

    `names` are of the pairs, in the order of `a` and `b` (scans or animals); pairs with a missing side are left
    out. `test_words` say the result of the test; `effect` is the median difference with its interval, drawn
    as line and band.
    """
    pairs = [
        (float(x), float(y), name)
        for x, y, name in zip(a, b, names, strict=True)
        if x is not None and y is not None and math.isfinite(x) and math.isfinite(y)
    ]
    pairs.sort(key=lambda pair: (pair[0] - pair[1], pair[2]))
    named = len(pairs) <= 45
    figure = new_figure(min(max(2.9, 0.9 + 0.135 * len(pairs)), 7.0) if named else 3.6)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    colors = {1: SERIES_COLORS[0], -1: SERIES_COLORS[5], 0: SOFT}
    for x, y, _ in pairs:
        color = colors[int(np.sign(x - y))]
        left.plot((0, 1), (x, y), "o-", color=color, lw=0.7, ms=2.8, mew=0, alpha=0.85)
    for place, found in ((0, [x for x, _, _ in pairs]), (1, [y for _, y, _ in pairs])):
        if found:
            middle = float(np.median(found))
            left.plot((place - 0.14, place + 0.14), (middle, middle), color=INK, lw=1.8, zorder=4)
    left.set_xlim(-0.35, 1.35)
    left.set_xticks((0, 1), distinct([name_a, name_b], 18))
    left.set_ylabel(with_unit(measure, unit))
    right.axvline(0, color=INK, lw=0.6)
    if effect is not None and effect[0] is not None:
        if effect[1] is not None and effect[2] is not None:
            right.axvspan(effect[1], effect[2], color=INK, alpha=0.09, lw=0, zorder=0)
        right.axvline(effect[0], color=INK, lw=1.2, ls="--", zorder=1)
    for row, (x, y, _) in enumerate(pairs):
        color = colors[int(np.sign(x - y))]
        right.plot((0, x - y), (row, row), color=color, lw=0.8, alpha=0.6)
        right.plot(x - y, row, "o", color=color, ms=3.2, mew=0)
    right.set_yticks(range(len(pairs)) if named else [], distinct([n for _, _, n in pairs]) if named else [])
    right.tick_params(axis="y", length=0, labelsize=6.5)
    right.spines["left"].set_visible(False)
    right.set_ylim(-0.8 - 0.01 * len(pairs), max(len(pairs), 1) * 1.01 - 0.2)
    both = " \N{MINUS SIGN} ".join(distinct([name_a, name_b], 18))
    right.set_xlabel(with_unit(f"{shown(measure, 24)}: {both}", unit, 70))
    if not pairs:
        say_nothing_to_show(left)
        say_nothing_to_show(right)
    figure.suptitle(shown(test_words, 120), fontsize=8, x=0.01, ha="left")
    caption = (
        f"{measure} of {name_a} and {name_b}, {len(pairs)} pairs: lines join the two values of one pair, bars "
        f"are medians; right, the differences in order (blue, {name_a} larger; orange, {name_b} larger)."
    )
    if effect is not None and effect[0] is not None:
        caption += " Dashed: median difference (Hodges-Lehmann), with its confidence interval as band."
    return to_picture(
        figure, f"paired_{measure}_{name_a}_{name_b}", f"{measure}: {name_a} and {name_b}",
        f"{caption} {test_words}".strip(),
    )  # fmt: skip


@publication_style
def agreement_matrix(
    names: Sequence[str], matrix: Sequence[Sequence[float]] | np.ndarray, measure: str, title: str
) -> Picture:
    """Return a heat map of `matrix`, `(n, n)`, one row and one column per name, with its numbers in the cells.

    nan is shown as a dash. Up to about 12 names the numbers can be read in print; above 20 they are left out.
    """
    cells = np.asarray(matrix, dtype=float)
    count = len(names)
    size = min(max(1.5, 0.42 * count), 6.0)
    figure = new_figure(size + 0.9, min(size + 2.1, WIDTH_IN))
    axis = figure.subplots()
    known = cells[np.isfinite(cells)]
    apart = cells[~np.eye(*cells.shape, dtype=bool)] if cells.size else cells
    apart = apart[np.isfinite(apart)]
    if len(known) == 0:
        low, high = 0.0, 1.0
    elif known.min() >= 0 and known.max() <= 1:
        low, high = (math.floor(10 * apart.min()) / 10 if len(apart) else 0.0), 1.0
        low = min(low, 0.9)
    else:
        low, high = min(0.0, float(known.min())), float(known.max())
    shades = _pale_blues()
    # White lines between cells: told apart also where neighbors have the same color.
    drawn = axis.pcolormesh(
        np.ma.masked_invalid(cells),
        cmap=shades,
        vmin=low,
        vmax=max(high, low + 1e-12),
        edgecolors="white",
        lw=1,
    )
    for row, column in np.ndindex(cells.shape if count <= 20 else (0, 0)):
        value = cells[row, column]
        dark = np.isfinite(value) and (value - low) / max(high - low, 1e-12) > 0.62
        text = _cell(value, float(np.abs(known).max()) if len(known) else 1.0)
        axis.text(
            column + 0.5, row + 0.5, text, ha="center", va="center", color="white" if dark else INK,
            fontsize=7.5 if count <= 8 else 6.5 if count <= 12 else 5,
        )  # fmt: skip
    labels = distinct(names, 20)
    axis.set_xticks(np.arange(count) + 0.5, labels, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(np.arange(count) + 0.5, labels)
    axis.tick_params(length=0)
    axis.invert_yaxis()
    axis.set_aspect("equal")
    for spine in axis.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(drawn, ax=axis, shrink=0.7, aspect=18, pad=0.03)
    bar.set_label(shown(measure, 50))
    bar.outline.set_visible(False)
    axis.set_title(shown(title, int(12 * size)), loc="left")
    caption = "\N{EN DASH}: undefined, or not compared."
    return to_picture(figure, f"matrix_{title}_{measure}", f"{title}: {measure} of every pair", caption)


def _pale_blues() -> object:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["Blues"](np.linspace(0.06, 0.88, 256)))


def _cell(value: float, largest: float) -> str:
    if not np.isfinite(value):
        return "\N{EN DASH}"
    return f"{value:.{2 if largest < 10 else 1 if largest < 100 else 0}f}".replace("-", "\N{MINUS SIGN}")
