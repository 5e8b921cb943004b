"""The report a person reads: what must be in it, what must not, and that it fits the terminal."""

from __future__ import annotations

import copy
import errno
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from streamloss import files, terms
from streamloss.errors import RULE_KEYS, StreamlossError, UsageError
from streamloss.reporting import jsonfile, schema, tables, terminal, units


def spread(mean: Any, stderr: Any, title: str, unit: str = "", **more: Any) -> dict[str, Any]:
    metric: dict[str, Any] = {"title": title, "unit": unit, "mean": mean, "stderr": stderr}
    if isinstance(mean, float) and isinstance(stderr, float):
        metric |= {"low": mean - 1.96 * stderr, "high": mean + 1.96 * stderr}
    return metric | {"infinite": 0, "finite_mean": mean} | more


REPORT: dict[str, Any] = {
    "schema": "streamloss.report/1",
    "version": "0.1.0",
    "command": "evaluate",
    "unit": "nat",
    "classes": 10,
    "digest": "3f2a9c51d0e47b88" * 4,
    "rows": {"read": 1_234_600, "used": 1_234_567, "ignored": 30, "invalid": 3},
    "weight": 1_234_567.0,
    "ledger": dict.fromkeys((*RULE_KEYS, "normalized", "clipped"), 0),
    "metrics": {
        "cross_entropy": spread(
            0.28154,
            0.00471,
            "cross-entropy",
            "nat",
            min=1.2e-7,
            max=9.8123,
            quantiles={
                "0.01": 0.0001,
                "0.05": 0.001,
                "0.25": 0.0123,
                "0.5": 0.1123,
                "0.75": 0.4,
                "0.95": 2.0,
                "0.99": 4.1,
            },
        ),
        "target_entropy": spread(0.0, 0.0, "target entropy", "nat", min=0.0, max=0.0, quantiles={"0.5": 0.0}),
        "kl_divergence": spread(
            0.28154, 0.00471, "KL divergence", "nat", min=1.2e-7, max=9.8123, quantiles={"0.05": 0.001, "0.5": 0.1123}
        ),
        "entropy": spread(0.31, 0.0032, "entropy of the prediction", "nat", min=0.0, max=2.3, quantiles={"0.5": 0.2}),
        "perplexity": {
            "title": "perplexity",
            "unit": "",
            "mean": 1.32517,
            "stderr": 0.00624,
            "low": 1.313,
            "high": 1.337,
        },
        "brier": spread(0.1312, 0.0021, "Brier score", min=0.0, max=1.99, quantiles={"0.5": 0.03}),
        "accuracy": spread(0.9123, 0.0067, "accuracy", min=0.0, max=1.0),
        "top5_accuracy": spread(0.9961, 0.0011, "top-5 accuracy", min=0.0, max=1.0),
        "label_entropy": {"title": "label entropy", "unit": "nat", "mean": 2.3018},
        "normalized_cross_entropy": {
            "title": "normalized cross-entropy",
            "unit": "",
            "mean": None,
            "reason": "one class only",
        },
        "ece": {"title": "expected calibration error", "unit": "", "mean": 0.02131},
        "overconfidence": spread(-0.0113, 0.0061, "overconfidence"),
    },
    "conventions": {},
    "reliability": [{"low": i / 15, "high": (i + 1) / 15, "rows": 0, "confidence": None, "accuracy": None} for i in range(10)]
    + [
        {
            "low": i / 15,
            "high": (i + 1) / 15,
            "rows": 10 ** (i - 9),
            "confidence": (i + 0.5) / 15,
            "accuracy": i / 15 - 0.02,
        }
        for i in range(10, 15)
    ],
    "per_class": [
        {
            "class": f"digit {i}",
            "rows": 120_000 + i,
            "cross_entropy": 0.1 * i,
            "entropy": 0.2,
            "brier": 0.1,
            "accuracy": 0.9,
        }
        for i in range(10)
    ],
    "slices": [],
    "gates": [],
    "inputs": [{"path": "data/digits[bold].parquet", "bytes": 123_456_789, "rows": 1_234_600}],
    "options": {"label": "label", "logits": "logits"},
    "run": {
        "seconds": 2.345,
        "rows_per_second": 526_000.0,
        "bytes_per_second": 52_600_000.0,
        "device": "cpu",
        "threads": 2,
        "engine": "local",
    },
}


INSPECTION: dict[str, Any] = {
    "files": [{"path": "data/digits[bold].parquet", "bytes": 109_880, "rows": 1797}],
    "rows": 1797,
    "bytes": 109_880,
    "columns": [
        {
            "name": "logits",
            "type": "list<element: float>",
            "role": "logits",
            "layout": "list",
            "dtype": "float32",
            "classes": 10,
            "nullable": True,
            "encodings": ["PLAIN", "RLE"],
            "codec": "ZSTD",
            "bytes": 71_000,
        },
        *(
            {
                "name": f"p_{i}",
                "type": "double",
                "role": None,
                "layout": "flat",
                "dtype": None,
                "classes": None,
                "nullable": False,
                "encodings": [],
                "codec": None,
                "bytes": 1000,
            }
            for i in range(300)
        ),
    ],
    "row_groups": 2,
    "reader": "arrow",
    "family": "categorical",
    "classes": 10,
    "command": "streamloss evaluate 'data/digits[bold].parquet' --logits logits --label " + "l" * 70,
    "problem": None,
}


def show(report: dict[str, Any], width: int = 100) -> str:
    return tables.to_text(lambda console: terminal.render(report, console), width)


def changed(**parts: Any) -> dict[str, Any]:
    return copy.deepcopy(REPORT) | parts


def _lose(metric: dict[str, Any], finite_mean: float) -> None:
    """Makes a mean infinite: its error becomes that of the finite rows, its interval goes."""
    error = metric.pop("stderr")
    for name in ("low", "high"):
        metric.pop(name, None)
    metric |= {"mean": "inf", "infinite": 3, "finite_mean": finite_mean, "finite_stderr": error}


def infinite() -> dict[str, Any]:
    """The report when three rows are infinite; errors and intervals are then those of the other rows."""
    report = changed()
    for key in ("cross_entropy", "kl_divergence"):
        _lose(report["metrics"][key], 0.28154)
        report["metrics"][key]["max"] = "inf"
    _lose(report["metrics"]["perplexity"], 1.32517)
    return report


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("report", [REPORT, infinite()], ids=["finite", "infinite"])
def test_report_fits_the_width(report: dict[str, Any], width: int) -> None:
    lines = show(report, width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)
    # The cut sign of a table that does not fit; an interval's sign stands between spaces.
    assert not re.search(r"\w…", "\n".join(lines))


@pytest.mark.parametrize("width", [20, 40, 60])
def test_a_narrow_terminal_is_no_error(width: int) -> None:
    assert "cross-entropy"[:8] in show(REPORT, width)


def test_the_headline_is_the_identity() -> None:
    top = show(REPORT, 80).splitlines()[3:5]
    assert top[0].split() == ["0.2815", "±", "0.0047", "=", "0", "+", "0.2815", "±", "0.0047", "nat"]
    assert top[1].split() == ["cross-entropy", "=", "target", "entropy", "+", "KL", "divergence"]
    # The signs stand above one another.
    assert [top[0].index(c) for c in "=+"] == [top[1].index(c) for c in "=+"]


def test_a_bare_score_has_no_equation() -> None:
    metrics = {"cross_entropy": REPORT["metrics"]["cross_entropy"], "perplexity": REPORT["metrics"]["perplexity"]}
    shown = show(changed(metrics=metrics, reliability=[], per_class=[], classes=0))
    assert "0.2815 ± 0.0047  nat" in shown
    assert "KL" not in shown
    assert " = " not in shown


def test_more_columns_where_there_is_room() -> None:
    def head(width: int) -> str:
        return next(line for line in show(REPORT, width).splitlines() if "in nat" in line)

    assert "median" in head(80)
    assert "99 %" not in head(80)
    assert " ".join(head(130).split("interval")[1].split()) == "min 1 % 5 % 25 % median 75 % 95 % 99 % max"


def test_infinite_rows_are_said_in_words() -> None:
    shown = " ".join(show(infinite(), 80).replace(units.NARROW_SPACE, "_").split())
    assert "∞ = 0 + ∞ nat" in shown
    assert (
        "3 of 1_234_567 rows have an infinite loss. Over the other 1_234_564: cross-entropy 0.2815 ± 0.0047 nat, "
        "KL divergence 0.2815 ± 0.0047 nat, perplexity 1.3252 ± 0.0062. A class that happened had probability 0; "
        "--zero clip:EPS gives it a finite cost."
    ) in shown
    assert "0.2723 …" not in shown  # no interval of a mean that is infinite
    assert "infinite" not in show(REPORT)


def test_what_could_not_be_computed_gives_its_reason() -> None:
    assert "normalized cross-entropy  —  one class only" in show(REPORT)


def test_absent_metrics_are_not_mentioned() -> None:
    shown = show(changed(metrics={"entropy": REPORT["metrics"]["entropy"]}, reliability=[], per_class=[]))
    for word in ("accuracy", "Brier", "cross-entropy", "reliability", "classes,", "None", "nan"):
        assert word not in shown


def test_shares_are_percentages() -> None:
    shown = show(REPORT)
    assert "91.23 ± 0.67 %" in shown
    assert re.search(r"expected calibration error +2.131 %", shown)
    assert "-2.33 … 0.07 %" in shown


def test_reliability_shows_the_bins_that_have_rows() -> None:
    bins = [line for line in show(REPORT).splitlines() if re.match(r"  0\.\d\d-", line)]
    assert [line.split()[0] for line in bins] == ["0.67-0.73", "0.73-0.80", "0.80-0.87", "0.87-0.93", "0.93-1.00"]
    # Overconfident everywhere: the mark of what was predicted stands right of the bar of what was observed.
    assert all(line.rstrip().endswith("│") and line.count("█") > 10 for line in bins)


def test_of_many_bins_the_fullest_are_shown() -> None:
    many = [{"low": i / 100, "high": (i + 1) / 100, "rows": i + 1, "confidence": i / 100, "accuracy": 1.0} for i in range(100)]
    shown = show(changed(reliability=many))
    assert "the 20 fullest of 100 bins" in shown
    assert len(re.findall(r"^  0\.\d+-[01]\.\d+ ", shown, re.MULTILINE)) == 20


def test_a_bar_is_as_long_as_its_share() -> None:
    def bar(filled: float, mark: float) -> str:
        return terminal._bar(filled, mark, 10).plain

    assert bar(0.5, 1.0) == "█████    │"
    assert bar(1.0, 0.55) == "█████┃████"
    assert bar(0.0, 0.0) == "│         "
    assert bar(0.0625, 0.99) == "▋        │"


def test_classes_costliest_first() -> None:
    assert re.findall(r"digit \d", show(REPORT)) == [f"digit {i}" for i in range(9, -1, -1)]
    many = [REPORT["per_class"][3] | {"class": f"c{i}", "cross_entropy": float(i)} for i in range(40)]
    many[7]["cross_entropy"] = "inf"
    many[8] |= {"rows": 0, "cross_entropy": None}
    shown = show(changed(per_class=many))
    assert "the 5 costliest of 39 classes" in shown
    assert re.findall(r"^  (c\d+) ", shown, re.MULTILINE) == ["c7", "c39", "c38", "c37", "c36"]


def test_the_ledger_speaks_only_when_there_is_something() -> None:
    clean = changed(rows={"read": 10, "used": 10, "ignored": 0, "invalid": 0})
    assert "Left out" not in show(clean)
    assert "10 rows read" not in show(clean)
    broken = changed(ledger=REPORT["ledger"] | {"nan": 2, "row_sum": 1, "normalized": 12, "clipped": 1})
    shown = show(broken)
    assert "Left out: nan 2, row sum 1." in shown
    assert "Renormalized to a sum of 1: 12 rows." in shown
    assert "Clipped by --zero: 1 row." in shown


def test_users_text_is_neither_markup_nor_control() -> None:
    hostile = changed(
        inputs=[{"path": "a[red]\x1b[2J\nb\udc80[/red].parquet", "bytes": 1, "rows": 1}],
        per_class=[REPORT["per_class"][0] | {"class": "[bold]x[/bold]\x07"}],
    )
    shown = show(hostile)
    assert "a[red]\\x1b[2J\\nb\\udc80[/red].parquet" in shown
    assert "[bold]x[/bold]\\x07" in shown
    assert "\x1b" not in shown


def test_many_inputs_are_counted() -> None:
    shown = show(changed(inputs=[{"path": f"part-{i}", "bytes": 10**9, "rows": 10} for i in range(10)]))
    assert "part-3 · 10 rows · 1.00 GB" in shown
    assert "and 6 more files · 6.00 GB" in shown
    assert "part-4" not in shown


def test_the_end_says_where_it_came_from() -> None:
    end = show(REPORT).splitlines()[-4:]
    assert end[0] == "  input    data/digits[bold].parquet · 1 234 600 rows · 123 MB".replace(
        "1 234 600", "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}600"
    )
    assert end[1] == "  options  label=label · logits=logits"
    assert end[2] == "  run      2.35 s · 526 k rows/s · 52.6 MB/s · cpu · local · 2 threads"
    assert end[3] == "  digest   3f2a9c51d0e47b88"


def test_colour_is_decoration() -> None:
    buffer = io.StringIO()
    terminal.render(REPORT, Console(file=buffer, width=100, force_terminal=True, color_system="truecolor"))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", buffer.getvalue())
    assert [line.rstrip() for line in plain.splitlines()] == show(REPORT).splitlines()


def test_a_comparison_a_thousand_slices_and_other_tools() -> None:
    report = full_of_slices(1000)
    at_80, at_120 = show(report, 80), show(report, 120)
    for text, width in ((at_80, 80), (at_120, 120)):
        assert max(map(len, text.splitlines())) <= width
        assert re.search(r"cross-entropy, nat +0\.2815 +0\.3015 +-0\.0200 ± 0\.0040 ", text)
        assert re.search(r"accuracy +91\.23 % +90\.00 % +\+1\.23 ± 0\.40 pp ", text)
        assert "the 20 costliest of 1001 slices by region, n\n" in text
        ranked = re.findall(r"^  (?:a region of [^…]*…|null|\(other\)) +(\S+) +10  ", text, re.MULTILINE)
        assert ranked == ["null", *(str(i) for i in range(999, 980, -1))]  # an infinite loss first
        assert "By region, n: 1010 slices, 1000 reported, 10 small slices of 90 rows." in " ".join(text.split())
        assert "Mean over the slices, each counting alike: cross-entropy 0.4500 nat." in " ".join(text.split())
        assert "+1.0e-7" in text
        assert "rows clipped" in text
        # Names are cut, numbers never.
        assert not re.search(r"\d…", text)
    assert re.search(r"-0\.0280 … -0\.0120 +better\n", at_120)


def test_what_is_between_two_models_has_its_quantiles() -> None:
    apart = changed(command="compare", comparison={"accuracy": {"title": "accuracy", "unit": "", "difference": 0.01}})
    levels = ("0.001", "0.01", "0.05", "0.1", "0.5", "0.9", "0.95", "0.99", "0.999")

    def quantiles(least: float) -> dict[str, Any]:
        return {"min": least, "max": least + 10, "quantiles": {q: least + i + 1 for i, q in enumerate(levels)}}

    apart["metrics"] |= {
        "kl_divergence": spread("inf", None, "KL divergence, old ‖ new", "nat") | quantiles(0.25) | {"max": "inf"},
        "reverse_kl_divergence": spread(6.0, 0.1, "KL divergence, new ‖ old", "nat") | quantiles(1.25),
        "js_divergence": spread(7.0, 0.1, "JS divergence", "nat") | quantiles(2.25),
        "delta_p": spread(0.5, 0.1, "Δp of the label") | quantiles(-4.25),
    }
    for width in (80, 160):
        [_, table] = show(apart, width).split("between the models, row by row\n")
        head, _, *rows = table.split("\n\n")[0].splitlines()
        assert re.split(" {2,}", head.strip()) == ["KL, old ‖ new, nat", "KL, new ‖ old, nat", "JS, nat", "Δp of the label"]
        assert [re.split(" {2,}", row.strip()) for row in rows] == [
            ["max", "∞", "11.2", "12.2", "5.75"],
            ["99.9 %", "9.25", "10.2", "11.2", "4.75"],
            ["99 %", "8.25", "9.25", "10.2", "3.75"],
            ["95 %", "7.25", "8.25", "9.25", "2.75"],
            ["90 %", "6.25", "7.25", "8.25", "1.75"],
            ["median", "5.25", "6.25", "7.25", "0.750"],
            ["10 %", "4.25", "5.25", "6.25", "-0.250"],
            ["5 %", "3.25", "4.25", "5.25", "-1.25"],
            ["1 %", "2.25", "3.25", "4.25", "-2.25"],
            ["0.1 %", "1.25", "2.25", "3.25", "-3.25"],
            ["min", "0.250", "1.25", "2.25", "-4.25"],
        ]
    at_48 = show(apart, 48)
    assert max(map(len, at_48.split("row by row")[1].split("\n\n")[0].splitlines())) <= 48
    assert re.search(r"99\.9 % +9\.25 +4\.75\n", at_48)  # Δp stays, the other divergences give way
    # Of one model there is nothing between, nor without quantiles.
    assert "between the models" not in show(apart | {"command": "evaluate", "comparison": {}})
    for metric in apart["metrics"].values():
        metric.pop("quantiles", None)
    assert "between the models" not in show(apart)


def test_slices_that_are_all_too_small_are_counted() -> None:
    shown = show(full_of_slices(0))
    assert "By region, n: 1010 slices, 0 reported, 1010 small slices of 90 rows." in shown
    assert "costliest first, by" not in shown


def full_of_slices(count: int) -> dict[str, Any]:
    """A comparison of so many slices, one of infinite loss, and what is beyond the limit."""

    def pair(new: float, old: float, title: str, unit: str = "") -> dict[str, Any]:
        found = {"title": title, "unit": unit, "new": new, "old": old, "difference": new - old}
        return found | {"stderr": 0.004, "low": new - old - 0.008, "high": new - old + 0.008}

    def part(by: dict[str, Any], mean: Any, **more: Any) -> dict[str, Any]:
        rows = {"read": 10, "used": 10, "ignored": 0, "invalid": 0}
        return {"by": by, "rows": rows, "metrics": {"cross_entropy": spread(mean, 0.01, "cross-entropy", "nat")}} | more

    slices = [
        part({"region": f"a region of a name that is longer than most {i}", "n": i}, i / 1000,
             comparison={"cross_entropy": pair(i / 1000, 0.5, "cross-entropy", "nat")})
        for i in range(count)
    ]  # fmt: skip
    if count:
        other = part({"region": "(other)", "n": "(other)"}, 99.0, other=True)
        slices = [other, *slices[:-1], part({"region": None, "n": None}, "inf"), slices[-1]]
    small = {"slices": 10, "rows": 90} if count else {"slices": 1010, "rows": 90}
    macro = {"cross_entropy": {"mean": 0.45, "slices": count, "title": "cross-entropy", "unit": "nat"}}
    facts = {"by": ["region", "n"], "slices": 1010, "shown": count, "small": small, "other": {"rows": 0}}
    return changed(
        command="compare",
        comparison={
            "cross_entropy": pair(0.28154, 0.30154, "cross-entropy", "nat"),
            "accuracy": pair(0.9123, 0.9, "accuracy"),
            "entropy": {"title": "entropy", "unit": "nat", "difference": None},
        },
        slices=slices,
        slicing=[facts | ({"macro": macro} if count else {})],
        conventions={"torch": {"cross_entropy": {"value": 0.2815401, "difference": 1e-7, "cause": "12 rows clipped at 1e-7"}}},
    )


def test_the_divergence_of_two_models_is_no_part_of_the_loss() -> None:
    apart = changed()
    apart["metrics"]["kl_divergence"] |= {"mean": 0.003}
    assert " = " not in show(apart).split("in nat")[0]


def test_inspection() -> None:
    shown = tables.to_text(lambda console: schema.render_inspection(INSPECTION, console), 80)
    lines = shown.splitlines()
    assert "1 file · 1797 rows · 2 row groups · 110 kB" in shown
    assert "p_0 … p_299" in shown
    assert "300 kB" in shown
    assert lines[-1].strip() == INSPECTION["command"]  # whole, to be copied
    assert max(len(line) for line in lines[:-1]) <= 80
    refused = INSPECTION | {"problem": "two predictions: [x] and y", "command": None, "family": None}
    shown = tables.to_text(lambda console: schema.render_inspection(refused, console), 80)
    assert "problem  two predictions: [x] and y" in shown
    assert "to evaluate" not in shown


def test_working_of_a_calculation() -> None:
    working = terms.cross_entropy([0.5, 0.5], [1.0, 0.0])
    shown = tables.to_text(lambda console: terminal.render_working(working, console), 80)
    assert "= H(q) + KL(q‖p) = 0.693147 + ∞" in shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.measured(0.28154, 0.00471), "0.2815 ± 0.0047"),
        (units.measured(0.28154, 0.00996), "0.282 ± 0.010"),
        (units.measured(123.456, 12.3), "123 ± 12"),
        (units.measured(0.28154, None), "0.2815"),
        (units.measured(0.28154, 0.0), "0.2815"),
        (units.measured(0.28154, "inf"), "0.2815"),
        (units.measured("inf", None), "∞"),
        (units.measured("-inf", None), "-∞"),
        (units.measured(1e-12, 1e-13), "1.00e-12 ± 1.00e-13"),
        (units.measured(0.9123, 0.0067, percent=True), "91.23 ± 0.67 %"),
        (units.number(0.0), "0"),
        (units.number(1.0), "1.000"),
        (units.number(0.99999), "1.000"),
        (units.number(0.0009999999), "0.001000"),
        (units.number(0.9123, percent=True), "91.23 %"),
        (units.number(1234.5678), "1235"),
        (units.number(123456.7).replace(units.NARROW_SPACE, "_"), "123_457"),
        (units.number(1.234e-7), "1.23e-7"),
        (units.number(1.234e12), "1.23e12"),
        (units.interval(0.2723, 0.2908, 0.0047), "0.2723 … 0.2908"),
        (units.interval(-0.02, 0.0007, 0.0061, percent=True), "-2.00 … 0.07 %"),
        (units.gap(-0.0532), "-5.3"),
        (units.count(1234), "1234"),
        (units.count(12345678).replace(units.NARROW_SPACE, "_"), "12_345_678"),
        (units.counted(1, "row"), "1 row"),
        (units.counted(2, "class", "classes"), "2 classes"),
        (units.size(0), "0 B"),
        (units.size(999), "999 B"),
        (units.size(999_600), "1.00 MB"),
        (units.size(1_234_567_890), "1.23 GB"),
        (units.size(99_960_000), "100 MB"),
        (units.rate(526_000), "526 k rows/s"),
        (units.rate(0.4), "0 rows/s"),
        (units.throughput(1.86e9), "1.86 GB/s"),
        (units.duration(0.4213), "0.42 s"),
        (units.duration(9.996), "10.0 s"),
        (units.duration(59.96), "1 min 00 s"),
        (units.duration(187), "3 min 07 s"),
        (units.duration(3599.7), "1 h 00 min"),
        (units.duration(7500), "2 h 05 min"),
        (units.clock(6.2), "0:07"),
        (units.clock(7500), "2:05:00"),
    ],
)
def test_numbers_for_people(text: str, expected: str) -> None:
    assert text == expected


def test_json_is_strict() -> None:
    data = jsonfile.encode({"a": math.inf, "b": [-math.inf, 1.5, None, True], "c": ("é", "bad \udc80")})
    assert data.endswith(b"}\n")
    assert json.loads(data) == {"a": "inf", "b": ["-inf", 1.5, None, True], "c": ["é", "bad \udc80"]}
    assert list(json.loads(jsonfile.encode(REPORT))) == list(REPORT)
    with pytest.raises(ValueError, match=r"report\.metrics\.x\[1\] is NaN"):
        jsonfile.encode({"metrics": {"x": [0.0, math.nan]}})
    for value in ({}, {"a": {}, "b": [], "é \n": {"ü": {"x": [{}]}}}, {"a": [[], {"b": [1]}, "c"]}, [1.5, {"a": "b"}], "a", 1):
        assert json.loads(jsonfile.encode(value)) == value


def test_in_json_every_slice_has_a_line() -> None:
    report = {"digest": "d", "slices": [{"by": {"g": i}, "metrics": {"x": {"mean": 1.5}}} for i in range(3)]}
    lines = jsonfile.encode(report).decode().splitlines()
    assert [json.loads(line.rstrip(",")) for line in lines if '"by"' in line] == report["slices"]


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.json"
    files.write_atomically(target, b"one")
    target.chmod(0o640)
    files.write_atomically(target, b"two")
    assert target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o640

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StreamlossError, match=r"cannot write .*report\.json: No space left on device"):
        files.write_atomically(target, b"three")
    assert target.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [target]


def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    files.write_atomically(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_link_is_followed_and_a_device_kept(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    files.check_target("/dev/null")
    files.write_atomically("/dev/null", b"gone")
    assert not Path("/dev/null").is_file()


def test_impossible_targets_are_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").touch()
    for target, message in (
        (tmp_path, "it is a folder"),
        (tmp_path / "no" / "report.json", "there is no folder"),
        (tmp_path / "data.parquet", "it is an input"),
    ):
        with pytest.raises(UsageError, match=message):
            files.check_target(target, [str(tmp_path / "data.parquet"), "s3://bucket/x"])
    files.check_target(tmp_path / "report.json", [tmp_path / "data.parquet"])
