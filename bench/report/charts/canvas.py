"""From a drawing to bytes: standalone SVG and PNG on white, and SVG inlined in a page that may be dark.

Charts are drawn 4.8 inches wide with type of 10 points and more, so that they can be read on a phone without zooming.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from bench.report.style import GRID, INK, MUTED, PAPER, TONES

WIDTH = 4.8
_CHART = "chart"
"""Id of the group that holds the chart without its title and caption."""
_FONTS = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tokenwire",
    "path.simplify_threshold": 0.3,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.labelsize": 10.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "savefig.facecolor": "auto",
}


class Chart(NamedTuple):
    """A chart that can be drawn again. `caption` says how to read it, `alt` what it shows to who cannot see it."""

    phase: str
    name: str
    """Of its files, and unique in a report."""
    title: str
    caption: str
    alt: str
    height: float
    draw: Callable[[Figure], None]


def named(*parts: str) -> str:
    """A name for files from words: letters, digits and hyphens."""
    return re.sub(r"[^a-zA-Z0-9]+", "-", "-".join(dict.fromkeys(parts))).strip("-").lower()


class Drawn(NamedTuple):
    """A chart in every form that it is needed in."""

    svg: bytes
    """On white, with title and caption; its type is text."""
    png: bytes
    """The same, 200 pixels to the inch."""
    inline: str
    """SVG for a page: no title, no ground, colours as CSS variables, ids of its own, hidden from none."""


def drawn(chart: Chart) -> Drawn:
    """Draw a chart. It is laid out once for all its forms, as that takes as long as drawing it."""
    with mpl.rc_context(_SETTINGS):
        figure = _titled(chart)
        text, file = io.StringIO(), io.BytesIO()
        # Canvases are printed themselves: saving the figure would draw it twice for each.
        printed: Any = FigureCanvasSVG(figure)
        printed.print_svg(text, metadata={"Date": None, "Creator": None})
        figure.set_layout_engine("none")
        figure.dpi = 200
        printed = FigureCanvasAgg(figure)
        printed.print_png(file, metadata={"Software": None})
    svg = _compact(text.getvalue())
    return Drawn(svg.encode(), file.getvalue(), _inline(chart, svg))


def _inline(chart: Chart, svg: str) -> str:
    """The chart itself, cut out of its standalone picture, in which it comes last."""
    text = svg[svg.index("<svg") :]
    text = text[: text.index('<g id="patch_1">')] + text[text.index(f'<g id="{_CHART}">') :]
    text = re.sub(r'\bid="([^"]+)"', rf'id="{chart.name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{chart.name}-", text)
    for tone in TONES:
        text = text.replace(tone.light, f"var(--{tone.variable})")
    label = _attribute(f"{chart.title}. {chart.alt}")
    above, height, _ = _heights(chart)
    box = f"0 {72 * above:g} {72 * WIDTH:g} {72 * height:g}"
    opening = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" role="img" aria-label="{label}">'
    return opening + text[text.index(">") + 1 :]


def _heights(chart: Chart) -> tuple[float, float, float]:
    """Of title, chart and caption (inches)."""
    title, caption = _wrapped(chart)
    return 0.1 + 0.22 * (title.count("\n") + 1), chart.height, 0.12 + 0.16 * (caption.count("\n") + 1)


def _wrapped(chart: Chart) -> tuple[str, str]:
    return textwrap.fill(chart.title, 50), textwrap.fill(chart.caption, 78)


def _titled(chart: Chart) -> Figure:
    """The chart between its title and its caption, each in a part of its own: none can run into a key row."""
    title, caption = _wrapped(chart)
    heights = _heights(chart)
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    parts: Any = figure.subfigures(3, 1, height_ratios=heights, hspace=0)
    above, middle, below = parts
    above.text(0.02, 0.5, title, ha="left", va="center", fontsize=11.5, fontweight="bold")
    chart.draw(middle)
    below.text(0.02, 0.5, caption, ha="left", va="center", fontsize=8, color=MUTED)
    middle.set_gid(_CHART)
    middle.set_zorder(1)
    return figure


def _compact(text: str) -> str:
    """Two decimals, one font stack, no comments, metadata or line breaks."""
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Inside tags only: coordinates are cut to two decimals, the numbers of labels never.
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d+\.\d{2})\d+", r"\1", tag[0]), text)
    # Ids are numbered as they come: some of matplotlib's are made of addresses in memory, other in every process.
    for i, made in enumerate(dict.fromkeys(re.findall(r'\bid="([a-z][0-9a-f]{10})"', text))):
        text = re.sub(rf"\b{made}\b", f"i{i}", text)
    text = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", _FONTS, text)
    return re.sub(r"\s*\n\s*", " ", text).replace("> <", "><")


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def plain_log(axis: Any) -> None:
    """Label a logarithmic axis with numbers (0.01, 0.1, 1, 10) rather than powers."""
    axis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "\u2212"))
    axis.set_minor_formatter(lambda *_: "")


def log_axis(axes: Axes, which: Literal["x", "y"], low: float, high: float, least: float = 1.0) -> None:
    """A logarithmic axis from `low` to `high` (positive), with ticks at 1, 2 and 5 where decades are few.

    It spans a factor of `least` at the least, so that small wobbles are not drawn as mountains.
    """
    widen = max(1.0, (least / (high / low)) ** 0.5)
    low, high = low / widen, high * widen
    low, high = 10 ** (np.floor(np.log10(low) * 4) / 4), 10 ** (np.ceil(np.log10(high) * 4 + 0.01) / 4)
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    decades = np.log10(high / low)
    steps = (1.0,) if decades > 2.6 else (1.0, 3.0) if decades > 1.6 else (1.0, 2.0, 5.0)
    ticks = [s * 10.0**p for p in range(-4, 7) for s in steps]
    axis.set_ticks([t for t in ticks if low <= t * 1.001 and t <= high * 1.001])
    plain_log(axis)
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)


def signed_log_axis(axes: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """An axis for both signs: linear close to zero, logarithmic from about 0.1 outwards, without a kink between.

    It is the inverse hyperbolic sine; ticks stand at zero and at every power of ten from 0.1.
    """
    axis = axes.xaxis if which == "x" else axes.yaxis
    scale = axes.set_xscale if which == "x" else axes.set_yscale
    scale("asinh", linear_width=0.05)
    powers = [10.0**p for p in range(-1, 6)]
    ticks = [t for t in [-p for p in reversed(powers)] + [0.0] + powers if low * 1.001 <= t <= high * 1.001]
    axis.set_ticks(ticks)
    plain_log(axis)
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)


def grid(axes: Axes, which: Literal["x", "y", "both"] = "x") -> None:
    """Faint lines on the axis that values are read from."""
    axes.grid(visible=True, axis=which, which="major")
    axes.tick_params(length=3)
