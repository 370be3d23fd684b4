"""What all figures for papers share: the look, the colors, the words on them, and the files they become."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

from thoraxseg.report.words import printable
from thoraxseg.segmentation import STRUCTURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 7.2
"""Two columns of a journal's page (183 mm)."""
DPI, PX_PER_IN = 200, 120
"""Dots of a PNG per inch, and how many points of a screen show an inch of figure."""
INK, SOFT, FAINT = "#1a1a1a", "#5f6670", "#c9ced4"
SERIES_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Told apart with any color vision (Okabe and Ito 2008); its yellow is left out: too pale on white."""
SERIES_MARKERS = ("o", "s", "^", "D", "v", "P")
"""A second way to tell series apart, for more series than colors and for print in gray."""
BRIGHTEST = 0.62
"""Luminance that can still be seen on white."""
_FONTS = ("Arial", "Helvetica", "Liberation Sans", "DejaVu Sans")
_FAR_EASTERN = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Microsoft YaHei",
    "Hiragino Sans",
    "Arial Unicode MS",
)
_BASE_STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "text.color": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # A name with two dollar signs is a name, not a formula.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "thoraxseg",
}


@dataclass(frozen=True)
class Picture:
    """One figure in the two forms that papers and pages want."""

    name: str
    """Stem for its files: lower-case letters, digits and underscores."""
    title: str
    png: bytes
    svg: bytes
    caption: str

    @property
    def width_px(self) -> int:
        """How wide a page shows it, so that letters are as large as those around; 0 for what is no PNG."""
        return int.from_bytes(self.png[16:20], "big") * PX_PER_IN // DPI  # the width in a PNG's header


def publication_style(draw: Callable[..., Picture]) -> Callable[..., Picture]:
    """Return the function so wrapped that it draws in the papers' style and leaves matplotlib's as it was."""

    @wraps(draw)
    def wrapped(*arguments: Any, **options: Any) -> Picture:
        from matplotlib import rc_context

        # The last, generic one is for whoever opens the SVG without these fonts.
        fonts = {"font.family": [*_families(), "sans-serif"], "font.sans-serif": list(_families())}
        with rc_context({**_BASE_STYLE, **fonts}):
            return draw(*arguments, **options)

    return wrapped


def new_figure(height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """Return an empty white figure whose parts make room for one another."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def to_picture(figure: Figure, name: str, title: str, caption: str) -> Picture:
    """Return the figure as PNG and SVG; the same figure gives the same bytes (no date or version inside)."""
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    figure.set_layout_engine("none")  # all is in its place: not to be laid out a second time
    figure.savefig(svg, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
    return Picture(file_stem(name), printable(title), png.getvalue(), svg.getvalue(), printable(caption))


def file_stem(words: str) -> str:
    """Return words as the stem of a file name, as in `box_dsc`; nothing of a path survives."""
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")[:60] or "figure"


def shown(text: str, longest: int = 40) -> str:
    r"""Return outside text as it can be drawn: one line, cut after `longest`, unknown signs as `\u65e5`.

    A sign that no font has would be an empty box, and two names would look the same.
    """
    known = _glyphs()
    text = printable(str(text))
    text = "".join(c if ord(c) in known else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= longest else text[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def distinct(names: Sequence[str], longest: int = 24) -> list[str]:
    """Return the names as they can be drawn, cut so that different names stay different."""
    whole = [shown(name, 1000) for name in names]
    short = [_cut(name, longest) for name in whole]
    if len(set(short)) < len(set(whole)):
        short = [_cut(name, longest) for name in _without_common_parts(whole, longest)]
    if len(set(short)) < len(set(whole)):
        short = [f"{n + 1}: {_cut(name, longest - 5)}" for n, name in enumerate(whole)]
    return short


def _without_common_parts(names: Sequence[str], longest: int) -> list[str]:
    """Return the names around the place where they differ: what all have in common tells none apart."""
    start = _in_common(names)
    end = _in_common([name[start:][::-1] for name in names])
    room = max(0, longest - 2 - max(len(name) - start - end for name in names))
    first = max(0, start - room)
    before, after = ("\N{HORIZONTAL ELLIPSIS}" if cut else "" for cut in (first, end))
    return [f"{before}{name[first : len(name) - end]}{after}" for name in names]


def _in_common(names: Sequence[str]) -> int:
    """Return how many letters all names begin with."""
    return next((n for n, letters in enumerate(zip(*names, strict=False)) if len(set(letters)) > 1), 0)


def _cut(name: str, longest: int) -> str:
    if len(name) <= longest:
        return name
    return f"{name[: longest // 2 - 1]}\N{HORIZONTAL ELLIPSIS}{name[-(longest // 2) :]}"


def columns_of(labels: Sequence[str], width_in: float) -> int:
    """Return how many columns a legend needs so that its rows fit the width and are about equally long."""
    fitting = max(1, int(width_in / (0.45 + 0.062 * max(map(len, labels), default=0))))
    rows = max(1, -(-len(labels) // fitting))
    return max(1, -(-len(labels) // rows))


def with_unit(measure: str, unit: str, longest: int = 34) -> str:
    """Return the words on an axis, as in `HD95 (mm)`."""
    return shown(f"{measure} ({unit})" if unit not in ("", "1") else measure, longest)


def figures_of(value: float) -> str:
    """Return a number with three significant digits and a true minus, as in `-0.0312` or `12,346`."""
    if not math.isfinite(value):
        return "\N{EN DASH}"
    if value == 0 or 1e-4 <= abs(value) < 1e7:
        digits = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{digits}f}"
    else:
        text = f"{value:.2e}"
    return text.replace("-", "\N{MINUS SIGN}")


def color_of(name: str, n: int) -> tuple[float, float, float]:
    """Return a structure's own color, known by name or key, or color `n` of the series for another.

    Bright ones are darkened until they show on white.
    """
    from matplotlib.colors import to_rgb

    wanted = name.strip().lower()
    known = [s.color for s in STRUCTURES.values() if wanted in (s.key, s.name.lower())]
    red, green, blue = known[0] if known else to_rgb(SERIES_COLORS[n % len(SERIES_COLORS)])
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    fit = min(1.0, BRIGHTEST / light)
    return red * fit, green * fit, blue * fit


def finite(values: Sequence[float | None]) -> list[float]:
    """Return the values that are numbers, in their order."""
    return [float(v) for v in values if v is not None and math.isfinite(v)]


def say_nothing_to_show(axis: Axes, words: str = "no values") -> None:
    """Write into an empty panel that it is empty on purpose."""
    axis.text(0.5, 0.5, words, transform=axis.transAxes, color=SOFT, ha="center", va="center")


@cache
def _families() -> tuple[str, ...]:
    """Return the fonts to use of those installed; the last one always is, as matplotlib brings it."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return tuple(font for font in (*_FONTS, *_FAR_EASTERN) if font in installed)


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, fontManager, get_font

    signs: set[int] = set()
    for family in _families():
        signs |= get_font(fontManager.findfont(FontProperties(family=family))).get_charmap().keys()
    return frozenset(signs)
