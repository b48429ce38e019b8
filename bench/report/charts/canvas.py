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
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from bench.report.style import GRID, INK, MUTED, PAPER, TONES

WIDTH = 4.8
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


def png(chart: Chart) -> bytes:
    """A picture on white with title and caption, 200 pixels to the inch."""
    with mpl.rc_context(_SETTINGS):
        figure = _titled(chart)
        FigureCanvasAgg(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=200, metadata={"Software": None})
    return file.getvalue()


def svg(chart: Chart) -> bytes:
    """A standalone SVG on white with title and caption; its type is text, in the reader's system font."""
    with mpl.rc_context(_SETTINGS):
        return _compact(_svg(_titled(chart))).encode()


def inline(chart: Chart) -> str:
    """SVG for a page: no title, no ground, colours as CSS variables, ids of its own, hidden from none."""
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH, chart.height), layout="constrained", facecolor="none")
        chart.draw(figure)
        text = _compact(_svg(figure))
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="([^"]+)"', rf'id="{chart.name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{chart.name}-", text)
    for tone in TONES:
        text = text.replace(tone.light, f"var(--{tone.variable})")
    label = _attribute(f"{chart.title}. {chart.alt}")
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
        lambda m: f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{m[1]}" role="img" aria-label="{label}">',
        text,
        count=1,
    )


def _titled(chart: Chart) -> Figure:
    title, caption = textwrap.fill(chart.title, 50), textwrap.fill(chart.caption, 78)
    extra = 0.24 * (title.count("\n") + 1) + 0.16 * (caption.count("\n") + 1) + 0.2
    figure = Figure(figsize=(WIDTH, chart.height + extra), layout="constrained")
    figure.suptitle(title, x=0.02, ha="left", fontsize=11.5, fontweight="bold")
    chart.draw(figure)
    figure.supxlabel(caption, x=0.02, ha="left", fontsize=8, color=MUTED)
    return figure


def _svg(figure: Figure) -> str:
    FigureCanvasSVG(figure)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _compact(text: str) -> str:
    """Two decimals, one font stack, no comments, metadata or line breaks."""
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"(\d+\.\d{2})\d+", r"\1", text)
    text = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", _FONTS, text)
    return re.sub(r"\s*\n\s*", " ", text).replace("> <", "><")


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def plain_log(axis: Any) -> None:
    """Label a logarithmic axis with numbers (0.01, 0.1, 1, 10) rather than powers."""
    axis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "\u2212"))
    axis.set_minor_formatter(lambda *_: "")


def grid(axes: Axes, which: Literal["x", "y", "both"] = "x") -> None:
    """Faint lines on the axis that values are read from."""
    axes.grid(visible=True, axis=which, which="major")
    axes.tick_params(length=3)
