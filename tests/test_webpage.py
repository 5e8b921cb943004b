"""The web page: its numbers are those of the JSON, nothing in it calls anywhere, and nothing a user wrote becomes markup."""

from __future__ import annotations

import copy
import http.server
import json
import math
import re
import shutil
import subprocess
import sys
import threading
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from click.testing import CliRunner
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

import streamloss
from streamloss.cli.main import cli
from streamloss.reporting import contents, plots, svg, webpage

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "</script><img src=x onerror=\"alert('1')\">&amp;${{7*7}}"
VOID = {"meta", "br", "img", "link", "input", "hr"}


def metric(
    mean: Any, error: float | None = None, title: str = "cross-entropy", unit: str = "nat", **more: Any
) -> dict[str, Any]:
    ends = {"stderr": error, "low": mean - 2 * error, "high": mean + 2 * error} if error is not None else {}
    return {"mean": mean, "title": title, "unit": unit, **ends, **more}


def change(new: float, old: float, error: float | None, title: str = "cross-entropy", unit: str = "nat") -> dict[str, Any]:
    ends = {} if error is None else {"stderr": error, "low": new - old - 2 * error, "high": new - old + 2 * error}
    more = {"ratio": new / old, "ratio_stderr": 0.01, "correlation": 0.9712345678901234}
    return {"title": title, "unit": unit, "new": new, "old": old, "difference": new - old, **ends, **more}


def slices(count: int, by: str = "region", name: str = "region-{:04d}", compared: bool = True) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for i in range(count):
        loss = 0.1 + i * 0.7 % 1 + 1e-9 * math.pi
        entry: dict[str, Any] = {
            "by": {by: name.format(i)},
            "rows": {"read": 30 + i, "used": 20 + i, "ignored": 10, "invalid": 0},
            "weight": 20.0 + i,
            "metrics": {
                "cross_entropy": metric(loss, 0.0123456789012345),
                "accuracy": metric(0.9, 0.01, "accuracy", ""),
                "entropy": metric(0.3333333333333333, 0.01, "entropy of the prediction"),
                "brier": metric(0.0777777777777777, 0.01, "Brier score", ""),
            },
        }
        if compared:
            entry["baseline"] = {"metrics": {"cross_entropy": metric(loss * 1.1, 0.01)}}
            entry["comparison"] = {"cross_entropy": change(loss, loss * 1.1, 0.0456789012345678)}
        found.append(entry)
    return found


@pytest.fixture(scope="module")
def digits() -> dict[str, Any]:
    return streamloss.evaluate(ROOT / "data" / "digits.parquet").to_dict(histograms=True)


@pytest.fixture(scope="module")
def distill() -> dict[str, Any]:
    return streamloss.evaluate(ROOT / "data" / "distill.parquet").to_dict(histograms=True)


@pytest.fixture
def compared(digits: dict[str, Any]) -> dict[str, Any]:
    """A comparison with everything that a report can hold."""
    report = copy.deepcopy(digits)
    del report["metrics"]["target_entropy"]
    quantiles = {"0.001": 1e-5, "0.5": 0.002, "0.999": 0.4}
    report["metrics"]["kl_divergence"] = metric(0.0031, 0.0002, "KL divergence", quantiles=quantiles, min=0.0, max=0.5)
    return report | {
        "command": "compare",
        "baseline": {"metrics": {"cross_entropy": metric(0.21, 0.01)}},
        "comparison": {
            "cross_entropy": change(0.1931752557617823, 0.21, 0.0043210987654321),
            "accuracy": change(0.9555555555555556, 0.97, 0.002, "accuracy", ""),
            "perplexity": change(1.2, 1.2001, 0.01, "perplexity", ""),
            "ece": change(0.0777572475458195, 0.08, None, "expected calibration error", ""),
            "entropy": {"title": "entropy of the prediction", "unit": "nat", "difference": None},
        },
        "conventions": {
            "torch": {"cross_entropy": {"value": 0.19317530000001, "difference": 4.4238e-8, "cause": "float32"}},
            "keras": {"cross_entropy": {"value": None, "difference": None, "cause": "logits only"}},
        },
        "gates": [
            {"rule": "upper(cross_entropy) > 0.35", "value": 0.2189912047894857, "outcome": "pass"},
            {"rule": "accuracy < 0.96", "value": 0.9555555555555556, "outcome": "fail"},
            {"rule": "d2 < 0.5", "value": None, "outcome": "undecided", "reason": "one class only"},
        ],
        "slices": [*slices(12), {"by": {"region": "(other)"}, "rows": {"used": 9}, "metrics": {}, "other": True}],
        "slicing": [
            {
                "by": ["region"],
                "slices": 14,
                "shown": 12,
                "small": {"slices": 2, "rows": 9},
                "other": {"rows": 9},
                "macro": {"cross_entropy": {"mean": 0.4, "slices": 12, "title": "cross-entropy", "unit": "nat"}},
            }
        ],
    }


class Page(HTMLParser):
    """A page as its elements: (tag, attributes, the key of the row or card around it), its text, and what is left open."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], str]] = []
        self.text: list[str] = []
        self.open: list[tuple[str, str]] = []
        self.feed(page.decode("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        key = found.get("data-key") or (self.open[-1][1] if self.open else "")
        self.elements.append((tag, found, key))
        if tag not in VOID:
            self.open.append((tag, key))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), self.open[-1][1]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag, f"</{tag}> closes what it did not open"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][0] not in ("style", "script"):
            self.text.append(data)

    def numbers(self, field: str) -> list[tuple[str, float]]:
        """The key and the value of every `data-` attribute of that name."""
        name = f"data-{field}"
        return [(key, float(str(attrs[name]))) for _, attrs, key in self.elements if name in attrs]


def page_of(report: dict[str, Any]) -> Page:
    return Page(webpage.encode(report))


def test_the_numbers_are_those_of_the_json(compared: dict[str, Any]) -> None:
    page = page_of(json.loads(json.dumps(compared)))
    for field in ("mean", "stderr", "low", "high", "min", "max"):
        shown = page.numbers(field)
        for key, found in compared["metrics"].items():
            spread = field not in ("min", "max") or "quantiles" in found
            if found.get(field) is not None and found.get("stderr") != 0 and spread:
                assert (key, found[field]) in shown, f"{key}.{field}"
    for key, found in compared["metrics"].items():
        for q, value in (found.get("quantiles") or {}).items():
            assert (key, value) in page.numbers(q)
    for key, found in compared["comparison"].items():
        for field in ("new", "old", "difference", "stderr", "low", "high", "ratio", "correlation"):
            if found.get(field) is not None:
                assert (key, found[field]) in page.numbers(field), f"{key}.{field}"
    for entry in compared["slices"][:-1]:
        loss, difference = entry["metrics"]["cross_entropy"], entry["comparison"]["cross_entropy"]
        for field, number in (("mean", loss["mean"]), ("low", loss["low"]), ("difference", difference["difference"])):
            assert ("", number) in page.numbers(field)
        assert ("", entry["rows"]["used"]) in page.numbers("used")
    for b in compared["reliability"]:
        if b["rows"]:
            for field in ("rows", "confidence", "accuracy"):
                assert ("", b[field]) in page.numbers(field)
    for entry in compared["per_class"]:
        for field in ("rows", "cross_entropy", "entropy", "brier", "accuracy"):
            assert ("", entry[field]) in page.numbers(field.replace("_", "-"))
    assert ("cross_entropy", 0.19317530000001) in page.numbers("value")
    assert [number for _, number in page.numbers("value")][:2] == [0.2189912047894857, 0.9555555555555556]


def test_no_number_of_the_page_is_made_up(digits: dict[str, Any]) -> None:
    def numbers(value: Any) -> Iterator[float]:
        if isinstance(value, dict | list):
            for part in value.values() if isinstance(value, dict) else value:
                yield from numbers(part)
        elif isinstance(value, int | float):
            yield float(value)

    known = set(numbers(digits))
    for _, attrs, _ in page_of(digits).elements:
        for name, value in attrs.items():
            if name.startswith("data-") and name != "data-key":
                assert float(str(value)) in known, name


def test_the_page_reads_as_the_terminal_does(compared: dict[str, Any]) -> None:
    text = " ".join(" ".join(page_of(compared).text).split())
    for words in (
        *("0.193 ± 0.013", "0.167 … 0.219", "-0.0168 ± 0.0043", "-1.44 ± 0.20 pp", "upper(cross_entropy) > 0.35"),
        *("better", "worse", "undecided", "one class only", "float32", "logits only", "region-0003", "(other)"),
        *(
            "14 slices · 12 reported · 2 small slices of 9 rows · 9 rows beyond the limit",
            "Means over the slices, each counting alike",
        ),
        *("900 rows · 10 classes", "data/digits.parquet", compared["digest"], "0.1 %", "99.9 %"),
    ):
        assert words in text, words


def drawn(report: dict[str, Any]) -> list[str]:
    return [drawing.name for drawing in plots.draw(report)]


def test_every_figure_is_there_when_its_numbers_are(
    digits: dict[str, Any], distill: dict[str, Any], compared: dict[str, Any]
) -> None:
    one = ["loss", "histogram-cross_entropy", "histogram-entropy", "reliability", "classes"]
    assert drawn(digits) == one
    soft = ["histogram-target_entropy", "histogram-kl_divergence", "reliability", "classes", "kl-quantiles"]
    assert drawn(distill) == [*one[:3], *soft]
    # The KL divergence of the two models is no part of the new one's cross-entropy.
    assert drawn(compared) == [*one[1:4], "differences", "differences-1-region", "classes", "slices-1-region", "kl-quantiles"]


def test_the_bar_is_made_of_the_two(distill: dict[str, Any]) -> None:
    (loss, *_) = plots.draw(distill)
    total, floor, divergence = (distill["metrics"][k]["mean"] for k in ("cross_entropy", "target_entropy", "kl_divergence"))
    bars = [(bar.get_x(), bar.get_width()) for bar in loss.figure.axes[0].patches]
    expected = [
        (0, floor),
        (floor, divergence),
        (0, floor),
        (floor, divergence),
        (0, distill["metrics"]["label_entropy"]["mean"]),
    ]
    assert [side for bar in bars for side in bar] == pytest.approx([side for bar in expected for side in bar])
    assert floor + divergence == pytest.approx(total)


def test_the_reliability_diagram_shows_the_bins(digits: dict[str, Any]) -> None:
    figure = next(drawing.figure for drawing in plots.draw(digits) if drawing.name == "reliability")
    upper, lower = figure.axes
    bins = [b for b in digits["reliability"] if b["rows"]]
    dots = next(line for line in upper.lines if line.get_marker() == "o")
    assert list(dots.get_xdata()) == [b["confidence"] for b in bins]
    assert list(dots.get_ydata()) == [b["accuracy"] for b in bins]
    most = max(b["rows"] for b in bins)
    assert [bar.get_height() for bar in lower.patches] == [max(b["rows"], most / 60) for b in bins]


def test_of_many_the_first_and_the_last_are_drawn(digits: dict[str, Any]) -> None:
    report = digits | {"slices": slices(100, compared=False)}
    drawing = next(drawing for drawing in plots.draw(report) if drawing.name.startswith("slices-1"))
    texts = [text.get_text() for text in drawing.figure.axes[0].texts]
    names = [text for text in texts if text.startswith("region-")]
    ranked = sorted(report["slices"], key=lambda entry: -entry["metrics"]["cross_entropy"]["mean"])
    expected = [entry["by"]["region"] for entry in (*ranked[:40], *ranked[-40:])]
    assert names == expected
    assert "20 more" in texts
    # The table has them all.
    assert {entry["by"]["region"] for entry in ranked} <= set(page_of(report).text)


def test_what_is_infinite_is_at_the_edge_and_in_words(digits: dict[str, Any]) -> None:
    report = copy.deepcopy(digits)
    for key in ("cross_entropy", "kl_divergence"):
        found = report["metrics"][key]
        for name in ("low", "high"):
            del found[name]
        found |= {"mean": "inf", "infinite": 3, "finite_stderr": found.pop("stderr"), "max": "inf"}
    report["per_class"][4]["cross_entropy"] = "inf"
    report["slices"] = slices(3, compared=False)
    report["slices"][1]["metrics"]["cross_entropy"] = {"mean": "inf", "title": "cross-entropy", "unit": "nat"}
    page = page_of(report)
    text = " ".join(" ".join(page.text).split())
    assert "3 of 900 rows have an infinite loss" in text
    assert "Over the other 897: cross-entropy 0.193 ± 0.013 nat" in text
    assert ("cross_entropy", math.inf) in page.numbers("mean")
    assert ("cross_entropy", report["metrics"]["cross_entropy"]["finite_mean"]) in page.numbers("finite-mean")
    assert "loss" in drawn(report)  # of the finite rows
    figure = next(drawing.figure for drawing in plots.draw(report) if drawing.name == "classes")
    assert [line.get_marker() for line in figure.axes[0].lines].count(">") == 1


OPTIONAL = ("weight", "ledger", "conventions", "reliability", "per_class", "histograms", "slices", "slicing", "gates", "inputs")
OPTIONAL += ("options", "run", "classes", "baseline", "comparison")


@pytest.mark.parametrize("key", [*OPTIONAL, "all"])
def test_what_is_absent_is_not_missed(compared: dict[str, Any], key: str) -> None:
    absent = OPTIONAL if key == "all" else (key,)
    page = page_of({name: value for name, value in compared.items() if name not in absent})
    assert page.open == []
    assert "None" not in " ".join(page.text)


def test_what_is_empty_is_not_missed(compared: dict[str, Any]) -> None:
    empty = {name: type(compared[name])() for name in OPTIONAL if name != "weight"}
    assert page_of(compared | empty).open == []
    assert page_of(compared | empty | {"conventions": {"torch": {}}, "slicing": [{"by": ["x"]}]}).open == []


def test_a_report_without_a_single_number(digits: dict[str, Any]) -> None:
    metrics = {"cross_entropy": {"mean": None, "reason": "every row was invalid", "title": "cross-entropy", "unit": "nat"}}
    nothing = {"metrics": metrics, "reliability": [], "per_class": [], "histograms": {}}
    page = page_of(digits | nothing | {"rows": dict.fromkeys(("read", "used", "ignored", "invalid"), 0)})
    assert "Not computed: cross-entropy  —  every row was invalid" in "".join(page.text)
    assert plots.draw(digits | nothing) == []


def hostile(report: dict[str, Any]) -> dict[str, Any]:
    """The report with markup wherever a user may write."""
    report = copy.deepcopy(report)
    report["per_class"] = [entry | {"class": f"{i}{HOSTILE}"} for i, entry in enumerate(report["per_class"])]
    report["inputs"] = [{"path": f"a/{HOSTILE}\udc80\x1b[2J.parquet", "bytes": 1, "rows": 900}]
    report["slices"] = [
        entry | {"by": {HOSTILE: value}} for entry, value in zip(slices(4), (HOSTILE, None, True, -7), strict=True)
    ]
    report["slicing"] = [{"by": [HOSTILE], "slices": 4, "shown": 4, "macro": {}}]
    report["options"] = {"label": HOSTILE, "classes": [HOSTILE]}
    report["conventions"] = {HOSTILE: {"cross_entropy": {"value": 1.0, "difference": 0.5, "cause": HOSTILE}}}
    report["gates"] = [{"rule": HOSTILE, "value": 1.0, "outcome": "undecided", "reason": HOSTILE}]
    report["metrics"]["d2"] = {"mean": None, "reason": HOSTILE, "title": "D²", "unit": ""}
    return report | {"run": {"command_line": f"streamloss evaluate '{HOSTILE}'", "device": HOSTILE, "engine": HOSTILE}}


def test_what_a_user_wrote_is_text(compared: dict[str, Any]) -> None:
    clean, attacked = page_of(compared), page_of(hostile(compared))
    assert "img" not in {tag for tag, _, _ in attacked.elements}
    assert [tag for tag, _, _ in attacked.elements].count("script") == 1
    for page in (clean, attacked):
        for _, attrs, _ in page.elements:
            assert not [name for name in attrs if name.startswith("on")]
    text = " ".join(attacked.text)
    assert text.count(HOSTILE) > 20
    assert "\\udc80\\x1b[2J" in text
    assert "49" not in [word for word in text.split() if word.startswith("$")]
    for words in ("null", "true", "-7"):
        assert words in [part.strip() for part in attacked.text]


def test_figures_are_xml_whatever_the_names(compared: dict[str, Any], tmp_path: Path) -> None:
    report = hostile(compared)
    for entry, name in zip(
        report["per_class"], ("$x^$", "]]>", "\x00\ufffe\ud800", "日本", "", "a\nb", "\u202e"), strict=False
    ):
        entry["class"] = name
    written = plots.write(report, tmp_path / "new" / "folder")
    assert len(written) == 2 * len(drawn(report))
    for file in written:
        assert re.fullmatch(r"[a-z0-9_-]+\.(svg|png)", file.name)
        if file.suffix == ".svg":
            root = ElementTree.fromstring(file.read_bytes())
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert not [node for node in root.iter() if node.tag.endswith(("script", "img", "image"))]
        else:
            assert file.read_bytes().startswith(b"\x89PNG")


def test_nothing_in_the_page_calls_anywhere(compared: dict[str, Any], distill: dict[str, Any]) -> None:
    for report in (compared, hostile(compared), distill):
        raw = webpage.encode(report)
        page = Page(raw)
        for tag, attrs, _ in page.elements:
            assert tag not in ("link", "iframe", "object", "embed", "img", "audio", "video", "base", "form")
            for name in ("src", "href", "xlink:href", "srcset", "action", "poster", "data"):
                assert (attrs.get(name) or "#").startswith("#"), (tag, attrs)
        assert not re.search(rb"url\((?!#)|@import|http-equiv=.refresh", raw)
    assert b"https:" not in raw
    assert b"http:" not in raw
    policy = next(attrs["content"] for _, attrs, _ in page.elements if "http-equiv" in attrs)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_reference_of_a_figure_is_there_once(compared: dict[str, Any]) -> None:
    page = page_of(compared)
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs, _ in page.elements:
        named = (attrs.get("href") or "#")[1:]
        pointed = re.findall(r"url\(#([^)]+)\)", f"{attrs.get('style')} {attrs.get('clip-path')}")
        labels = (attrs.get("aria-labelledby") or "").split()
        assert {*filter(None, [named]), *pointed, *labels} <= set(ids)


def test_figures_have_words_and_the_page_s_colours(compared: dict[str, Any]) -> None:
    page = page_of(compared)
    figures = [attrs for tag, attrs, _ in page.elements if tag == "svg"]
    assert len(figures) == len(drawn(compared))
    assert all(attrs["role"] == "img" and attrs["aria-labelledby"] for attrs in figures)
    inside = [drawing.inline() for drawing in plots.draw(compared)]
    assert not [found for text in inside for found in re.findall(r'style="[^"]*#[0-9a-f]{6}', text)]
    assert not [text for text in inside if "DejaVu" in text]
    assert set(svg.LIGHT) == set(svg.DARK)
    assert len(set(svg.LIGHT.values())) == len(svg.LIGHT)  # or a colour would not know its name


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [svg.LIGHT, svg.DARK], ids=["light", "dark"])
def test_contrast(palette: dict[str, str]) -> None:
    for name in ("ink", "muted", "good", "bad"):  # text
        assert contrast(palette[name], palette["paper"]) >= 4.5, name
    assert contrast(palette["loss"], palette["paper"]) >= 3
    assert contrast(palette["loss"], palette["floor"]) >= 1.5


def test_equal_reports_give_equal_bytes(compared: dict[str, Any]) -> None:
    first = webpage.encode(compared)
    assert webpage.encode(copy.deepcopy(compared)) == first
    other = webpage.encode(compared | {"run": {"seconds": 123.0, "threads": 7}})
    assert re.sub(rb"<dt>run</dt><dd>.*?</dd>", b"", other) == re.sub(rb"<dt>run</dt><dd>.*?</dd>", b"", first)
    for one, two in zip(plots.draw(compared), plots.draw(compared), strict=True):
        assert (one.svg(), one.png()) == (two.svg(), two.png())


def test_no_text_leaves_its_figure(compared: dict[str, Any], distill: dict[str, Any]) -> None:
    wide = hostile(compared)
    for entry, name in zip(wide["per_class"], ("W" * 90, "日" * 60, "i" * 300, "", "x"), strict=False):
        entry["class"] = name
    for report in (compared, distill, wide):
        for drawing in plots.draw(report):
            figure = drawing.figure
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Glyph")
                canvas = FigureCanvasAgg(figure)
                canvas.draw()  # labels find their places
                renderer = canvas.get_renderer()
                boxes = {text.get_text(): text.get_window_extent(renderer) for text in figure.findobj(Text) if text.get_text()}
            for words, box in boxes.items():
                inside = box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1
                assert inside, f"{drawing.name}: {words!r} {box} in {figure.bbox}"


def test_a_user_s_matplotlib_is_left_as_it_is_and_changes_nothing(digits: dict[str, Any]) -> None:
    expected = [drawing.svg() for drawing in plots.draw(digits)]
    mine = {"axes.grid": True, "lines.linewidth": 9.0, "savefig.dpi": 40.0, "svg.fonttype": "path", "xtick.bottom": False}
    with matplotlib.rc_context(mine):
        assert [drawing.svg() for drawing in plots.draw(digits)] == expected
        assert {name: matplotlib.rcParams[name] for name in mine} == mine
    assert "matplotlib.pyplot" not in sys.modules


def test_a_thousand_slices_and_classes_are_less_than_a_megabyte(compared: dict[str, Any]) -> None:
    classes = [
        {
            "class": f"class number {i:04d}",
            "rows": 1000 + i,
            **dict.fromkeys(("cross_entropy", "entropy", "brier", "accuracy"), i / 7),
        }
        for i in range(1000)
    ]
    page = webpage.encode(compared | {"slices": slices(1000), "per_class": classes})
    assert len(page) < 1_000_000
    parsed = Page(page)
    names = {text.strip() for text in parsed.text}
    assert {f"region-{i:04d}" for i in range(1000)} | {f"class number {i:04d}" for i in range(1000)} <= names
    # Means are whole even there.
    assert {entry["metrics"]["cross_entropy"]["mean"] for entry in slices(1000)} <= {
        number for _, number in parsed.numbers("mean")
    }
    # Of more slices the costliest are shown, and the page says so.
    many = webpage.encode(compared | {"slices": slices(5000), "per_class": classes})
    assert len(many) < 1_000_000
    assert b"The 1000 costliest" in many


def test_crossed_slices_have_a_column_each(digits: dict[str, Any]) -> None:
    crossed = [entry | {"by": {"site": i, "device": "phone"}} for i, entry in enumerate(slices(3, compared=False))]
    report = digits | {"slices": [*slices(2, compared=False), *crossed]}
    assert [", ".join(slicing.by) for slicing in contents.slicings(report)] == ["region", "site, device"]
    assert drawn(report)[-2:] == ["slices-1-region", "slices-2-site-device"]
    page = page_of(report)
    assert {"site", "device", "phone"} <= {text.strip() for text in page.text}


# --- the command line ---------------------------------------------------------------------------------------------------


def run(*words: str) -> Any:
    return CliRunner().invoke(cli, words, catch_exceptions=False)


def test_the_commands_write_pages_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/streamloss", "evaluate", "a b.parquet"])
    data = str(ROOT / "data" / "cancer.parquet")
    done = run("evaluate", data, "-o", "page.html", "--plots", "figures/new", "--save-state", "s")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "streamloss: wrote page.html\nstreamloss: wrote 10 files into figures/new\n"
    assert len(list((tmp_path / "figures" / "new").iterdir())) == 10
    assert "streamloss evaluate 'a b.parquet'" in "".join(Page((tmp_path / "page.html").read_bytes()).text)
    merged = run("report", "s", "--format", "html", "--unit", "bit", "--plots", "figures/new")
    assert merged.exit_code == 0
    page = Page(merged.stdout.encode())
    assert "in bits" in " ".join(page.text)
    assert len([tag for tag, _, _ in page.elements if tag == "svg"]) == 5
    # Plots beside another format, whose report has no histograms in it.
    record = run("evaluate", data, "--format", "json", "--plots", "more").stdout
    assert "histograms" not in json.loads(record)
    assert json.loads(record)["run"]["command_line"] == "streamloss evaluate 'a b.parquet'"
    one, other = ((tmp_path / name / "reliability.svg").read_bytes() for name in ("more", "figures/new"))
    assert one == other


@pytest.mark.parametrize("folder", ["page.html", "page.html/new"])
def test_a_folder_that_cannot_be_is_found_before_the_work(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.html").write_text("old")
    monkeypatch.setattr("streamloss.api.evaluate", lambda *_, **__: pytest.fail("it was evaluated"))
    done = run("evaluate", str(ROOT / "data" / "cancer.parquet"), "--plots", folder)
    assert done.exit_code == 2
    assert "cannot write into" in done.stderr
    assert (tmp_path / "page.html").read_text() == "old"


@pytest.mark.parametrize(
    ("library", "module", "words"),
    [
        ("jinja2", "webpage", ("--format", "html")),
        ("matplotlib", "plots", ("-o", "x.html")),
        ("matplotlib", "plots", ("--plots", "x")),
    ],
)
def test_a_library_that_is_missing_is_named(
    library: str, module: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("webpage", "plots"):
        monkeypatch.delitem(sys.modules, f"streamloss.reporting.{name}", raising=False)
        monkeypatch.delattr(f"streamloss.reporting.{name}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    done = run("evaluate", str(ROOT / "data" / "cancer.parquet"), *words)
    assert done.exit_code == 2
    assert done.stderr.endswith(f"need{'s' if library == 'jinja2' else ''} {library}: pip install 'streamloss[report]'\n")
    assert list(tmp_path.iterdir()) == []


def test_inspect_has_no_page() -> None:
    assert run("inspect", str(ROOT / "data" / "cancer.parquet"), "--format", "html").exit_code == 2


# --- in a browser -------------------------------------------------------------------------------------------------------


class Proxy(http.server.BaseHTTPRequestHandler):
    """Takes note of everything that a browser asks the network for."""

    asked: list[str]

    def note(self) -> None:
        self.asked.append(self.requestline)
        self.send_error(502)

    do_GET = do_POST = do_CONNECT = note

    def log_message(self, format: str, *args: object) -> None:
        pass


def browse(page: Path, profile: Path) -> tuple[str, list[str], list[str]]:
    """The document after its scripts have run, what they wrote to the console, and what was asked of the network."""
    asked: list[str] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Noting", (Proxy,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        quiet = (
            "disable-background-networking",
            "disable-component-update",
            "disable-sync",
            "no-first-run",
            "disable-extensions",
        )
        more = ("headless=new", "no-sandbox", "disable-gpu", "enable-logging=stderr", "dump-dom", f"user-data-dir={profile}")
        proxy = (f"proxy-server=127.0.0.1:{server.server_port}", "proxy-bypass-list=<-loopback>")
        words = [str(CHROMIUM), *(f"--{flag}" for flag in (*quiet, *more, *proxy)), page.as_uri()]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    finally:
        server.shutdown()
        server.server_close()
    own = re.compile(r"[./](googleapis|google|gvt1|gstatic)\.com")  # where Chromium itself looks for updates
    console = [line for line in ended.stderr.splitlines() if ":CONSOLE" in line]
    return ended.stdout, console, [line for line in asked if not own.search(line)]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_browser_has_nothing_to_complain_about(compared: dict[str, Any], tmp_path: Path) -> None:
    raw = webpage.encode(hostile(compared))
    (tmp_path / "page.html").write_bytes(raw)
    document, console, asked = browse(tmp_path / "page.html", tmp_path / "profile")
    assert console == []
    assert asked == []
    assert document.count("<button") > 20  # the script ran
    # The same browser does tell of a page that is not so good, and does ask for what a page without a policy wants.
    bad = raw.replace(b"<main>", b"<main><img src='http://example.test/x.png'><script>alert(1)</script>")
    (tmp_path / "bad.html").write_bytes(bad)
    _, console, asked = browse(tmp_path / "bad.html", tmp_path / "profile")
    assert (len(console), asked) == (2, [])
    (tmp_path / "bad.html").write_bytes(re.sub(rb"<meta http-equiv=[^>]*>", b"", bad).replace(b"alert(1)", b""))
    assert browse(tmp_path / "bad.html", tmp_path / "profile")[2] == ["GET http://example.test/x.png HTTP/1.1"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_click_sorts(digits: dict[str, Any], tmp_path: Path) -> None:
    raw = webpage.encode(digits | {"slices": slices(30, compared=False)}).decode()
    raw = re.sub(r"<meta http-equiv=[^>]*>", "", raw)
    click = """<script>
      const table = [...document.querySelectorAll("table")].find((t) => t.tHead.textContent.startsWith("region"));
      const read = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent).join(" ");
      const [names, ...others] = table.tHead.querySelectorAll("button");
      const loss = others.find((button) => button.textContent.startsWith("cross-entropy"));
      const seen = [read()];
      for (const button of [names, names, loss]) { button.click(); seen.push(read()); }
      document.title = JSON.stringify(seen);
    </script>"""
    (tmp_path / "page.html").write_text(raw.replace("</body>", f"{click}</body>"), encoding="utf-8")
    document, _, _ = browse(tmp_path / "page.html", tmp_path / "profile")
    title = re.search(r"<title>(.*?)</title>", document)
    assert title is not None
    costly, down, up, again = (order.split() for order in json.loads(title[1]))
    assert up == sorted(up) != costly
    assert down == up[::-1]
    assert again == costly
