"""The figures of a report, drawn with matplotlib: what the loss is made of, calibration, where the rows lie, who costs most.

Takes the dictionary of the JSON report and draws what is in it. A figure is as wide as a telephone, 360 points, and taller as
it has more to show. Figures stand on their own (no pyplot), the same report gives the same bytes, and texts stay texts. What
is infinite is drawn at the right edge.
"""

from __future__ import annotations

import contextlib
import io
import math
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from streamloss.errors import UsageError
from streamloss.files import unwritable, write_atomically
from streamloss.reporting import contents, dotplots, svg, units, wording
from streamloss.reporting.contents import Report
from streamloss.reporting.dotplots import DotPlot, Line
from streamloss.reporting.svg import LIGHT

try:
    from matplotlib import style
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
except ImportError as error:
    raise UsageError("figures need matplotlib: pip install 'streamloss[report]'") from error

WIDTH = 360.0  # points
MOST_LINES = 80  # of more classes or slices, the first and the last forty
_ROW = 17.0
_LABEL, _SMALL = 10.0, 9.0  # sizes of text
_LABEL_WIDTH = 140.0  # the most that names may take of the width
_DPI = 200

_LINES = {"mean": "line", "median": "dashes"}
_DASHES: dict[str, tuple[int, ...]] = {"mean": (), "median": (2, 2)}

_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that the figures are the same everywhere
    "font.size": _LABEL,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be called $x$
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.labelsize": _SMALL,
    "axes.unicode_minus": False,
    "path.simplify": False,
}


@dataclass(frozen=True)
class Drawing:
    """A figure with the name of its file, a title, and what it shows in words."""

    name: str
    title: str
    description: str
    figure: Figure

    def svg(self) -> str:
        """The figure as an SVG file, on paper."""
        return self._rendered("svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))).decode("utf-8")

    def png(self) -> bytes:
        """The figure as a PNG, a thousand pixels wide."""
        return self._rendered("png", metadata={"Software": None}, dpi=_DPI)

    def inline(self) -> str:
        """The figure as an element of a page, see `reporting.svg`."""
        return svg.inline(self.svg(), self.name, self.title, self.description)

    def _rendered(self, form: str, **more: Any) -> bytes:
        buffer = io.BytesIO()
        with _style(self.name):
            self.figure.savefig(buffer, format=form, **more)
        return buffer.getvalue()


def draw(report: Report) -> list[Drawing]:
    """Every figure that the report has the numbers for."""
    with _style(""):
        return [drawing for figures in _FIGURES for drawing in figures(report)]


def write(report: Report, folder: str | Path) -> list[Path]:
    """Writes the figures as SVG and PNG files into a folder, which is made if need be; each file whole or not at all."""
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise unwritable(folder, problem) from problem
    written: list[Path] = []
    for drawing in draw(report):
        for form, data in (("svg", drawing.svg().encode("utf-8", errors="backslashreplace")), ("png", drawing.png())):
            written.append(place / f"{drawing.name}.{form}")
            write_atomically(written[-1], data)
    return written


@contextlib.contextmanager
def _style(salt: str) -> Iterator[None]:
    """Our settings of matplotlib for the time of a drawing, whatever the user's; its font may lack a sign."""
    settings: Any = ["default", _STYLE | {"svg.hashsalt": salt}]
    with style.context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        yield


def _canvas(height: float) -> Figure:
    return Figure(figsize=(WIDTH / 72, height / 72), facecolor=LIGHT["paper"])


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in points, bare but for the labels of their ticks."""
    total = figure.get_figheight() * 72
    axes = figure.add_axes((left / WIDTH, bottom / total, width / WIDTH, height / total))
    axes.set_facecolor("none")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, labelsize=_SMALL, labelcolor=LIGHT["muted"], pad=4)
    axes.set_axisbelow(True)
    return axes


def _grid(axes: Axes, which: str) -> None:
    axes.grid(axis=which, color=LIGHT["rule"], linewidth=0.7)  # type: ignore[arg-type]


def _tick(value: float, _: object = None) -> str:
    return "0" if abs(value) < 1e-300 else units.given(float(f"{value:.3g}")).replace("e-0", "e-").replace("e+0", "e")


def _scale(axes: Axes, low: float, high: float, log: bool = False) -> None:
    """The horizontal scale from low to high with a few round numbers."""
    if log:
        axes.set_xscale("log")
        decades = math.log10(high / low)
        subs = (1.0,) if decades > 2 else (1.0, 2.0, 5.0)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.set_xlim(low, high)


def _width(text: str, size: float) -> float:
    """The width of a text in points; signs of East Asia, which the font lacks, are as wide as they are high."""
    measured, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(family="DejaVu Sans", size=size), False)
    return float(measured) + 0.4 * size * sum(unicodedata.east_asian_width(c) in "WF" for c in text)


def _fit(text: str, room: float, size: float) -> str:
    """As much of a text as has room."""
    kept = text
    while kept and _width(shown := kept if kept == text else f"{kept}…", size) > room:
        kept = kept[: min(len(kept) - 1, int(len(kept) * room / _width(shown, size)) + 1)]
    return text if kept == text else f"{kept}…"


def _places(count: int) -> tuple[Sequence[int], Sequence[int]]:
    """Which lines are drawn: all, or of too many as many from either end."""
    if count <= MOST_LINES:
        return range(count), range(0)
    return range(MOST_LINES // 2), range(count - MOST_LINES // 2, count)


def _dots(plot: DotPlot) -> Figure:
    """A line for each name: its interval, its value as a dot, and in words."""
    lines, own = plot.lines, plot.own
    tops, ends = _places(len(lines))
    shown = [lines[i] for i in (*tops, *ends)]
    places = [*map(float, tops), *(float(len(tops) + 1 + i) for i in range(len(ends)))]
    size = _SMALL if own else _LABEL
    names = [_fit(line.name, _LABEL_WIDTH, size) for line in shown]
    name_width = 10 + max(_width(name, size) for name in names)
    text_width = 10 + max(_width(line.text, _SMALL) for line in shown)
    rows = places[-1] + 1
    bottom = 22.0 if own else 34.0
    figure = _canvas(rows * _ROW + bottom + 6)
    axes = _axes(figure, name_width, bottom, WIDTH - name_width - text_width, rows * _ROW)
    if not own:
        _grid(axes, "x")
    axes.set_ylim(rows - 0.5, -0.5)
    axes.yaxis.set_major_locator(NullLocator())
    low, high = _range(shown, plot.log, plot.zero)
    if own:
        axes.xaxis.set_major_locator(NullLocator())
        axes.set_xlim(-1.12, 1.12)
    else:
        _scale(axes, low, high, plot.log)
    axes.set_xlabel(plot.axis, labelpad=3)
    if plot.zero:
        axes.axvline(0, color=LIGHT["muted"], linewidth=0.9)
    for place, line, name in zip(places, shown, names, strict=True):
        factor = 1 / max(abs(v) for v in (line.value, line.low or 0, line.high or 0, 1e-300)) if own else 1.0
        _dot(axes, place, line, factor, (low, high))
        for x, align, text in ((-6.0, "right", name), (6.0, "left", line.text)):
            axes.annotate(
                *(text, (0.0 if x < 0 else 1.0, place)),
                xytext=(x, 0),
                xycoords=axes.get_yaxis_transform(),
                textcoords="offset points",
                ha=align,
                va="center",
                fontsize=size if x < 0 else _SMALL,
                color=LIGHT["ink"],
                annotation_clip=False,
            )
    if ends:
        left_out = units.count(len(lines) - len(shown))
        at = (0.5, float(len(tops)))
        axes.text(*at, f"{left_out} more", transform=axes.get_yaxis_transform(), ha="center", va="center", color=LIGHT["muted"])
    return figure


def _dot(axes: Axes, place: float, line: Line, factor: float, ends: tuple[float, float]) -> None:
    """The interval as a line, the value as a dot on it; what is infinite as an arrow at the edge."""
    colour, paper = LIGHT[line.colour], LIGHT["paper"]
    if math.isinf(line.value):
        axes.plot(
            [ends[1] if line.value > 0 else ends[0]], [place], ">" if line.value > 0 else "<", color=colour, clip_on=False
        )
        return
    if line.low is not None and line.high is not None:
        axes.plot([line.low * factor, line.high * factor], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
    if line.second is not None and math.isfinite(line.second):
        axes.plot([line.second], [place], "|", color=LIGHT["muted"], markersize=8, markeredgewidth=1.4)
    axes.plot([line.value * factor], [place], "o", color=colour, mfc=paper if line.hollow else colour, markersize=4.5, mew=1.2)


def _range(lines: Sequence[Line], log: bool, zero: bool) -> tuple[float, float]:
    """What the scale has to cover: every dot and every interval, and 0 where it is near or asked for."""
    found = [v for line in lines for v in (line.value, line.low, line.high, line.second) if v is not None and math.isfinite(v)]
    found = [v for v in found if v > 0] if log else found
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    if log:
        return low / 1.25, high * 1.25 if high > low else low * 2
    if zero or (0 <= low < 0.5 * high):
        low, high = min(low, 0.0), max(high, 0.0)
    pad = 0.03 * (high - low) or 0.05 * abs(high) or 0.5
    return (0.0 if low == 0 and not zero else low - pad), high + pad


def _loss(report: Report) -> Iterator[Drawing]:
    """Cross-entropy as a bar of target entropy and KL divergence, unfolded below into the two."""
    metrics, unit = report["metrics"], report["unit"]
    if not contents.adds_up(metrics):
        return
    total, floor, divergence = (metrics[key] for key in ("cross_entropy", "target_entropy", "kl_divergence"))
    means = [contents.finite(metric) for metric in (total, floor, divergence)]
    (ce, _), (low, _), (kl, _) = means
    bars: list[tuple[str, list[tuple[float, float, str]], str]] = [
        (total["title"], [(0.0, low, "floor"), (low, kl, "loss")], units.measured(*means[0])),
        (floor["title"], [(0.0, low, "floor")], units.measured(*means[1])),
        (divergence["title"], [(low, kl, "loss")], units.measured(*means[2])),
    ]
    if base := contents.known(metrics, "label_entropy"):
        bars.append((base["title"], [(0.0, float(base["mean"]), "rows")], units.number(base["mean"])))
    name_width = 10 + max(_width(name, _LABEL) for name, _, _ in bars)
    text_width = 10 + max(_width(text, _SMALL) for _, _, text in bars)
    figure = _canvas(24 * len(bars) + 40)
    axes = _axes(figure, name_width, 34, WIDTH - name_width - text_width, 24 * len(bars))
    _grid(axes, "x")
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.yaxis.set_major_locator(FixedLocator(range(len(bars))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: bars[round(y)][0]))
    axes.tick_params(axis="y", labelsize=_LABEL, labelcolor=LIGHT["ink"])
    right = max(start + length for _, parts, _ in bars for start, length, _ in parts)
    _scale(axes, 0.0, (right or 1.0) * 1.02)
    axes.set_xlabel(unit, labelpad=3)
    for i, (_, parts, text) in enumerate(bars):
        for start, length, colour in parts:
            axes.barh(i, length, left=start, height=0.52, color=LIGHT[colour])
        at = (1.0, float(i))
        axes.annotate(
            *(text, at),
            xytext=(6, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            fontsize=_SMALL,
            annotation_clip=False,
        )
    axes.plot([low, low], [0.0, 2.26], color=LIGHT["muted"], linewidth=0.8, dashes=(2, 2))
    words = f"Cross-entropy {units.given(ce)} = target entropy {units.given(low)} + KL divergence {units.given(kl)} {unit}."
    yield Drawing("loss", "What the loss is made of", words, figure)


def _reliability(report: Report) -> Iterator[Drawing]:
    """What was observed against what was predicted, the gap to the diagonal, and how many rows there are."""
    bins = contents.bins(report)
    if not bins:
        return
    figure = _canvas(372)
    left, width = 50.0, WIDTH - 50 - 16
    upper, lower = _axes(figure, left, 92, width, 272), _axes(figure, left, 34, width, 48)
    _grid(upper, "both")
    upper.plot([0, 1], [0, 1], color=LIGHT["muted"], linewidth=0.9, dashes=(4, 3))
    for b in bins:
        upper.plot([b["confidence"]] * 2, [b["confidence"], b["accuracy"]], color=LIGHT["loss"], linewidth=1.6, alpha=0.5)
    size = 5.5 if len(bins) <= 25 else 3.5
    upper.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o", color=LIGHT["loss"], markersize=size)
    most = max(b["rows"] for b in bins)
    for b in bins:
        lower.bar(
            b["low"], max(b["rows"], most / 60), b["high"] - b["low"], align="edge", color=LIGHT["rows"], ec=LIGHT["paper"]
        )
    for axes in (upper, lower):
        axes.set_xlim(-0.01, 1.01)
        axes.xaxis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %"))
    upper.tick_params(axis="x", labelbottom=False)
    upper.set_ylim(-0.02, 1.02)
    upper.yaxis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1]))
    upper.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
    upper.set_ylabel("observed", labelpad=2)
    lower.set_ylim(0, most * 1.05)
    lower.yaxis.set_major_locator(FixedLocator([most]))
    lower.yaxis.set_major_formatter(FuncFormatter(lambda y, _: units.rate(y, "").removesuffix(" /s").replace(" ", "")))
    lower.set_ylabel("rows", labelpad=2)
    lower.set_xlabel("predicted", labelpad=3)
    worst = max(bins, key=lambda b: abs(b["accuracy"] - b["confidence"]))
    words = (
        f"{len(bins)} bins of {units.counted(sum(b['rows'] for b in bins), 'row')}. "
        f"The widest gap: predicted {units.share(worst['confidence'])}, observed {units.share(worst['accuracy'])} "
        f"({units.counted(worst['rows'], 'row')})."
    )
    yield Drawing("reliability", "Reliability: what was predicted, and how often it was so", words, figure)


def _histograms(report: Report) -> Iterator[Drawing]:
    """Shares of the rows over a logarithmic scale, with median and mean."""
    for key, found in (report.get("histograms") or {}).items():
        metric = contents.known(report["metrics"], key)
        if metric is None:
            continue
        edges, shares = found["edges"], found["shares"]
        figure = _canvas(178)
        axes = _axes(figure, 42, 34, WIDTH - 42 - 14, 122)
        _grid(axes, "y")
        widths = [high - low for low, high in pairwise(edges)]
        axes.bar(edges[:-1], shares, widths, align="edge", color=LIGHT["rows"], ec=LIGHT["paper"], linewidth=0.4)
        _scale(axes, edges[0], edges[-1], log=True)
        axes.set_xlabel(metric.get("unit") or "", labelpad=3)
        axes.set_ylim(0, max(shares) * 1.04 or 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.3g} %"))
        marks = [("mean", contents.finite(metric)[0])]
        if (median := (metric.get("quantiles") or {}).get("0.5")) is not None:
            marks.append(("median", float(median)))
        marks = [mark for mark in marks if edges[0] <= mark[1] <= edges[-1]]
        for name, value in marks:
            axes.axvline(value, color=LIGHT["ink"], linewidth=0.9, dashes=_DASHES[name])
        said = ", ".join(f"{name} {units.number(value, digits=3)} ({_LINES[name]})" for name, value in marks)
        axes.text(0, 1.04, said, transform=axes.transAxes, fontsize=_SMALL)
        title = metric.get("title", key)
        below = f"; {units.share(found['below'])} lie below" if found.get("below") else ""
        words = f"Shares of the rows from {_tick(edges[0])} to {_tick(edges[-1])}{below}; {said}."
        yield Drawing(f"histogram-{dotplots.slug(key)}", f"Rows by {title}", words, figure)


def _temperature(report: Report) -> Iterator[Drawing]:
    """Loss and calibration error by temperature, the report's own and the best one marked."""
    found = report.get("temperature")
    if not found:
        return
    best, own = found["best"], float((report.get("options") or {}).get("temperature", 1))
    curve = [point for point in found["curve"] if math.isfinite(_loss_at(point))]
    if len(curve) < 2:
        return
    curves: list[tuple[str, str, list[float]]] = [("cross-entropy", report["unit"], [_loss_at(point) for point in curve])]
    if all(point.get("ece") is not None for point in curve):
        curves.append(("ECE", "", [point["ece"] for point in curve]))
    figure = _canvas(34 + 130 * len(curves))
    places = [point["temperature"] for point in curve]
    marks: list[tuple[str, float]] = [("median", own)]  # the line styles of a histogram's marks
    said = f"T {units.given(own)} (dashes)"
    if best["temperature"] is not None:
        marks.append(("mean", best["temperature"]))
        said = f"best T {units.number(best['temperature'], best['stderr'])} (line), {said}"
    for i, (what, unit, values) in enumerate(reversed(curves)):
        axes = _axes(figure, 50, 34 + 130 * i, WIDTH - 50 - 16, 104)
        _grid(axes, "both")
        _scale(axes, places[0] / 1.05, places[-1] * 1.05, log=True)
        axes.plot(places, values, "-", color=LIGHT["loss"], linewidth=1.2)
        axes.plot(places, values, "o", color=LIGHT["loss"], markersize=3)
        for name, t in marks:
            axes.axvline(t, color=LIGHT["ink"], linewidth=0.9, dashes=_DASHES[name])
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(_tick if unit else lambda y, _: f"{100 * y:.3g} %"))
        axes.text(0, 1.04, f"{what}, {unit}" if unit else what, transform=axes.transAxes, fontsize=_SMALL)
        axes.tick_params(axis="x", labelbottom=not i)
        if not i:
            axes.set_xlabel("T", labelpad=3)
    axes.text(1, 1.04, said, transform=axes.transAxes, fontsize=_SMALL, ha="right")
    words = f"From T = {_tick(places[0])} to {_tick(places[-1])}; {said}. {' '.join(wording.temperature(report))}"
    yield Drawing("temperature", "Loss and calibration error by temperature", words, figure)


def _loss_at(point: dict[str, Any]) -> float:
    """The loss at a temperature, that of the finite rows where one is infinite; infinite where there is none."""
    found = point.get("finite_mean", point["cross_entropy"])
    return math.inf if found is None else float(found)


def _dot_plots(report: Report) -> Iterator[Drawing]:
    return (Drawing(plot.name, plot.title, plot.description, _dots(plot)) for plot in dotplots.dot_plots(report))


_FIGURES: tuple[Callable[[Report], Iterator[Drawing]], ...] = (_loss, _histograms, _reliability, _temperature, _dot_plots)
