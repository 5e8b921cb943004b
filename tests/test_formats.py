"""Reports as Markdown and CSV: what a parser makes of them is what the JSON report says, whatever the user's text holds."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from test_golden import golden
from test_terminal import REPORT, infinite, spread

from streamloss.cli import shared
from streamloss.cli.main import cli
from streamloss.errors import RULES
from streamloss.reporting import columns, csvfile, markdown, units, wording
from streamloss.reporting.names import slice_name, slice_value
from streamloss.reporting.units import Given

ROOT = Path(__file__).resolve().parent.parent
DIGITS = str(ROOT / "data" / "digits.parquet")


def _slice(by: dict[str, Any], mean: Any, rows: int, infinite: int = 0, **more: Any) -> dict[str, Any]:
    metrics = {
        "cross_entropy": spread(mean, 0.01, "cross-entropy", "nat") | {"infinite": infinite, "finite_mean": 0.5},
        "target_entropy": spread(0.0, 0.0, "target entropy", "nat"),
        "kl_divergence": spread(mean, 0.01, "KL divergence", "nat"),
        "accuracy": spread(0.9, 0.02, "accuracy"),
    }
    counts = {"read": rows + 1, "used": rows, "ignored": 1, "invalid": 0}
    return {"by": by, "rows": counts, "weight": float(rows), "metrics": metrics} | more


def _pair(new: float, old: float, title: str, unit: str = "", **more: Any) -> dict[str, Any]:
    error = 0.004
    ends = {"stderr": error, "low": new - old - 2 * error, "high": new - old + 2 * error}
    ratio = {"ratio": new / old, "ratio_stderr": 0.01, "ratio_low": new / old - 0.02, "ratio_high": new / old + 0.02}
    pair = {"title": title, "unit": unit, "new": new, "old": old, "difference": new - old}
    return pair | ends | ratio | {"correlation": 0.97} | more


PAIRS = {
    "cross_entropy": _pair(0.28154, 0.30154, "cross-entropy", "nat",
                           min=-1.5, max=0.75, quantiles={"0.05": -0.25, "0.5": -0.03125, "0.999": 0.625}),
    "accuracy": _pair(0.9123, 0.9, "accuracy"),
    "ece": {"title": "expected calibration error", "unit": "", "new": 0.02131, "old": 0.03, "difference": -0.00869},
}  # fmt: skip
# Everything that a report can hold.
FULL: dict[str, Any] = copy.deepcopy(REPORT) | {
    "command": "compare",
    "baseline": {"metrics": {"cross_entropy": spread(0.30154, 0.0049, "cross-entropy", "nat"),
                             "accuracy": spread(0.9, 0.007, "accuracy")}},
    "comparison": PAIRS,
    "slices": [
        _slice({"group": "a"}, 0.2, 10, baseline={"metrics": {"cross_entropy": spread(0.25, 0.01, "cross-entropy", "nat")}},
               comparison={"cross_entropy": _pair(0.2, 0.25, "cross-entropy", "nat")}),
        _slice({"group": "b|c"}, 0.7, 20),
        _slice({"group": None}, "inf", 30, infinite=2),
        _slice({"group": "(other)"}, 0.9, 40, other=True),
        _slice({"group": "a", "day": 3}, 0.1, 50),
        _slice({"group": "null", "day": True}, 0.3, 60) | {"weight": 31.5},
    ],
    "slicing": [
        {"by": ["group"], "slices": 5, "shown": 3, "small": {"slices": 2, "rows": 9}, "other": {"rows": 40},
         "macro": {"cross_entropy": {"mean": 0.45, "slices": 3, "title": "cross-entropy", "unit": "nat"},
                   "accuracy": {"mean": 0.9, "slices": 3, "title": "accuracy", "unit": ""}}},
        {"by": ["group", "day"], "slices": 2, "shown": 2, "small": {"slices": 0, "rows": 0}, "other": {"rows": 0}},
    ],
    "conventions": {
        "torch": {"cross_entropy": {"value": 0.2815401, "difference": 1e-7, "cause": "12 rows clipped at 1e-7"}},
        "keras": {"cross_entropy": {"value": None, "difference": None, "reason": "needs probabilities"}},
    },
    "gates": [
        {"rule": "upper(cross_entropy) > 0.35", "value": 0.2907, "outcome": "pass"},
        {"rule": "accuracy[group=a|b] < 95%", "value": 0.9123, "outcome": "fail"},
        {"rule": "perplexity > inf", "value": None, "outcome": "undecided", "reason": "no group '@nobody' #12"},
        {"rule": "max(cross_entropy over slices) > 1", "value": "inf", "outcome": "fail"},
    ],
}  # fmt: skip


def parsed(text: str) -> list[Token]:
    """What GitHub's Markdown is, but for its links to what looks like a URL."""
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)


def words(inline: Token) -> str:
    """The text of a cell or paragraph as a reader sees it, which must hold no markup but code and bold."""
    found = []
    for token in inline.children or []:
        assert token.type in ("text", "code_inline", "text_special", "strong_open", "strong_close"), (token, inline.content)
        found.append(token.content)
    return "".join(found)


def tables(text: str) -> list[list[list[str]]]:
    """Every table as rows of the texts of their cells."""
    found: list[list[list[str]]] = []
    cell = False
    for token in parsed(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("td_open", "th_open"):
            cell = True
        elif cell and token.type == "inline":
            found[-1][-1].append(words(token))
            cell = False
    return found


def table_of(report: dict[str, Any], *head: str) -> list[list[str]]:
    """The one table of a Markdown report whose first heads these are; numbers are kept on one line, which shows nowhere."""
    [found] = [rows for rows in tables(shown(report)) if tuple(rows[0][: len(head)]) == head]
    return [[cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in found]


def shown(report: dict[str, Any]) -> str:
    return markdown.encode(report).decode("utf-8")


def records(report: dict[str, Any]) -> list[dict[str, str]]:
    text = csvfile.encode(report).decode("utf-8")
    assert text.endswith("\r\n")
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def select(report: dict[str, Any], **wanted: str) -> list[dict[str, str]]:
    return [row for row in records(report) if all(row[name] == value for name, value in wanted.items())]


def same(text: str, value: Any) -> bool:
    """Whether a cell of the CSV is this value of the JSON, to the bit."""
    if value is None:
        return text == ""
    if isinstance(value, float):
        return math.copysign(1, float(text)) == math.copysign(1, value) and float(text) == value
    return text == str(value)


# Goldens


@pytest.mark.parametrize("form", golden.RENDERED)
@pytest.mark.parametrize("name", golden.CASES)
def test_the_samples_report_is_the_golden_one(name: str, form: str) -> None:
    file = golden.GOLDEN / f"{name}{shared.FORMATS[form].endings[0]}"
    assert golden.render(kept(name), form) == file.read_bytes(), "run scripts/make_golden.py if this is as it should be"


def kept(name: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((golden.GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return report


def test_every_golden_file_has_its_case() -> None:
    endings = [shared.FORMATS[form].endings[0] for form in ("json", *golden.RENDERED)]
    assert {path.name for path in golden.GOLDEN.iterdir()} == {name + ending for name in golden.CASES for ending in endings}


# What is in both


@pytest.mark.parametrize("report", [REPORT, infinite(), FULL], ids=["plain", "infinite", "full"])
def test_every_metric_is_in_both(report: dict[str, Any]) -> None:
    text = shown(report)
    cells = {cell for rows in tables(text) for row in rows for cell in row}
    for key, metric in report["metrics"].items():
        assert metric["title"] in cells or (metric["mean"] is None and f"- {metric['title']}  —  {metric['reason']}" in text)
        assert len(select(report, scope="all", metric=key)) == 1


def test_nothing_but_the_needed_is_needed() -> None:
    bare = {
        "command": "evaluate",
        "unit": "nat",
        "rows": {"read": 0, "used": 0, "ignored": 0, "invalid": 0},
        "ledger": {},
        "metrics": {"cross_entropy": {"mean": None, "reason": "there were no rows", "title": "cross-entropy", "unit": "nat"}},
    }
    assert "cross-entropy  —  there were no rows" in shown(bare)
    assert "None" not in shown(bare)
    [row] = select(bare, scope="all")
    assert (row["mean"], row["reason"], row["rows"]) == ("", "there were no rows", "0")
    empty = bare | {"slices": [], "slicing": [], "gates": [], "comparison": {}, "baseline": {"metrics": {}}}
    empty["conventions"] = {"torch": {}}
    empty |= {"reliability": [], "per_class": [], "inputs": [], "options": {}, "run": {}}
    assert shown(empty) == shown(bare)
    assert records(empty) == records(bare)


# Markdown


def test_the_top_says_what_matters() -> None:
    lines = shown(FULL).split("\n\n")
    assert lines[0] == "# streamloss compare"
    assert words(parsed(lines[1])[1]).replace(units.NARROW_SPACE, " ") == (
        "1 234 567 rows · 10 classes · data/digits[bold].parquet"
    )
    assert lines[2] == "**cross-entropy 0.2815 ± 0.0047** = target entropy 0 + KL divergence 0.2815 ± 0.0047 nat"
    assert lines[3] == "perplexity 1.3252 ± 0.0062 · accuracy 91.23 ± 0.67 % · calibration error (ECE) 2.131 %"
    assert lines[4] == "## Gates"
    many = FULL | {"inputs": [{"path": f"part-{i}", "bytes": 1, "rows": 1} for i in range(9)]}
    assert shown(many).split("\n\n")[1].endswith("`part-0` · and 8 more files")


def test_gates_with_their_values() -> None:
    assert table_of(FULL, "", "fails if") == [
        ["", "fails if", "value", "why"],
        ["✅ pass", "upper(cross_entropy) > 0.35", "0.2907", ""],
        ["❌ fail", "accuracy[group=a|b] < 95%", "0.9123", ""],
        ["❓ undecided", "perplexity > inf", "", "no group '@nobody' #12"],
        ["❌ fail", "max(cross_entropy over slices) > 1", "∞", ""],
    ]


def test_the_metrics_have_the_digits_of_the_terminal() -> None:
    rows = table_of(REPORT, "in nat")
    assert rows[0][:4] == ["in nat", "mean ± error", "95 % interval", "min"]
    assert rows[0][-3:] == ["95 %", "99 %", "max"]
    assert rows[1][:4] == ["cross-entropy", "0.2815 ± 0.0047", "0.2723 … 0.2908", "1.2e-7"]
    assert "normalized cross-entropy  —  one class only" in shown(REPORT)


def test_a_number_is_not_broken_over_two_lines() -> None:
    [row] = [line for line in shown(REPORT).splitlines() if line.startswith("| Brier score")]
    assert "0.1312\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.0021" in row
    assert "0.1271\N{NO-BREAK SPACE}…\N{NO-BREAK SPACE}0.1353" in row


def test_infinite_rows_are_said_as_in_the_terminal() -> None:
    text = " ".join(token.content for token in parsed(shown(infinite())) if token.type == "inline")
    for line in wording.infinities(infinite()["metrics"], infinite()["rows"]["used"]):
        assert line in text
    assert "--zero clip:EPS" in text


def test_the_comparison_has_both_sides_and_what_is_between() -> None:
    assert table_of(FULL, "", "new") == [
        ["", "new", "old", "difference ± error", "95 % interval", "new is", "ratio ± error", "its interval",
         "correlation"],
        ["cross-entropy, nat", "0.2815", "0.3015", "-0.0200 ± 0.0040", "-0.0280 … -0.0120",
         "better", "0.934 ± 0.010", "0.914 … 0.954", "0.970"],
        ["accuracy", "91.23 %", "90.00 %", "+1.23 ± 0.40 pp", "0.43 … 2.03 pp",
         "better", "1.014 ± 0.010", "0.994 … 1.034", "0.970"],
        ["expected calibration error", "2.131 %", "3.000 %", "-0.869 pp", "", "", "", "", ""],
    ]  # fmt: skip
    assert "## Metrics of the old model" in shown(FULL)
    assert "old model" not in shown(REPORT)


def test_what_is_between_two_models_has_its_quantiles() -> None:
    assert table_of(FULL, "", "KL, old ‖ new, nat") == [
        ["", "KL, old ‖ new, nat"],
        ["max", "9.81"],
        ["median", "0.112"],
        ["5 %", "0.00100"],
        ["min", "1.2e-7"],
    ]
    assert "## Between the models, row by row" in shown(FULL)
    assert "Between the models" not in shown(REPORT)


def test_slices_costliest_first_and_the_rest_last() -> None:
    head = ["rows", "ignored", "cross-entropy, nat", "95 % interval", "infinite rows"]
    head += ["old", "difference ± error", "its interval", "new is", "accuracy"]
    accuracy = "90.0 ± 2.0 %"
    new = ["0.250", "-0.0500 ± 0.0040", "-0.0580 … -0.0420", "better"]
    old = ["", "", "", ""]
    assert table_of(FULL, "group", "rows") == [
        ["group", *head],
        ["null", "30", "1", "∞", "", "2", *old, accuracy],
        ["b|c", "20", "1", "0.700 ± 0.010", "0.680 … 0.720", "0", *old, accuracy],
        ["a", "10", "1", "0.200 ± 0.010", "0.180 … 0.220", "0", *new, accuracy],
        ["(other)", "40", "1", "0.900 ± 0.010", "0.880 … 0.920", "0", *old, accuracy],
    ]
    assert table_of(FULL, "group", "day") == [
        ["group", "day", "rows", "ignored", "weight", "cross-entropy, nat", "95 % interval", "accuracy"],
        ['"null"', "true", "60", "1", "31.50", "0.300 ± 0.010", "0.280 … 0.320", accuracy],
        ["a", "3", "50", "1", "50.00", "0.100 ± 0.010", "0.080 … 0.120", accuracy],
    ]
    assert table_of(FULL, "", "mean over slices") == [
        ["", "mean over slices", "slices"],
        ["cross-entropy, nat", "0.4500", "3"],
        ["accuracy", "90.00 %", "3"],
    ]
    text = shown(FULL)
    assert "## Slices, costliest first, by `group`\n" in text
    assert "## Slices, costliest first, by `group`, `day`\n" in text
    assert "5 slices · 3 reported · 2 small slices of 9 rows · 40 rows beyond the limit on slices, as (other)" in text


def test_of_many_slices_the_costliest_are_shown() -> None:
    many = [_slice({"n": i}, i / 100, 10) for i in range(120)]
    report = REPORT | {"slices": many}
    assert [row[0] for row in table_of(report, "n")[1:]] == [str(i) for i in range(119, 69, -1)]
    assert "## The 50 costliest of 120 slices by `n`\n" in shown(report)
    assert len({row["slice"] for row in select(report, scope="slice")}) == 120


def test_slices_without_a_cross_entropy_show_what_they_have() -> None:
    parts = [
        {"by": {"n": i}, "rows": {"used": 5}, "metrics": {"mce": {"title": "MCE", "unit": "", "mean": 0.1}}} for i in (2, 1)
    ]
    assert table_of(REPORT | {"slices": parts}, "n") == [["n", "rows", "MCE"], ["2", "5", "10.0 %"], ["1", "5", "10.0 %"]]


def test_target_entropy_earns_the_slices_a_divergence() -> None:
    part = _slice({"n": 1}, 0.5, 5)
    part["metrics"]["target_entropy"]["mean"] = 0.2
    assert "KL divergence, nat" in table_of(REPORT | {"slices": [part]}, "n")[0]


def test_conventions_beside_the_exact_value() -> None:
    assert table_of(FULL, "convention") == [
        ["convention", "quantity", "value", "exact", "difference", "why"],
        ["torch", "cross-entropy, nat", "0.281540", "0.281540", "+1.0e-7", "12 rows clipped at 1e-7"],
        ["keras", "cross-entropy, nat", "", "0.281540", "", "needs probabilities"],
    ]


def test_twenty_classes_are_shown_and_all_are_in_the_csv() -> None:
    many = [REPORT["per_class"][3] | {"class": f"c{i}", "cross_entropy": float(i)} for i in range(40)]
    many[7]["cross_entropy"] = "inf"
    report = REPORT | {"per_class": many}
    assert [row[0] for row in table_of(report, "class")[1:]] == ["c7", *(f"c{i}" for i in range(39, 20, -1))]
    assert "## The 20 costliest of 40 classes\n" in shown(report)
    assert len(select(report, scope="class", metric="brier")) == 40
    assert select(report, scope="class", item="c7", metric="cross_entropy")[0]["mean"] == "inf"


def test_reliability_and_ledger() -> None:
    rows = table_of(REPORT, "predicted")
    assert [row[0] for row in rows[1:]] == ["0.67-0.73", "0.73-0.80", "0.80-0.87", "0.87-0.93", "0.93-1.00"]
    broken = REPORT | {"ledger": REPORT["ledger"] | {"nan": 2, "row_sum": 1}}
    assert "- Left out: nan 2, row sum 1.\n" in shown(broken)
    clean = REPORT | {"rows": {"read": 10, "used": 10, "ignored": 0, "invalid": 0}}
    assert "- 10 rows read, and every one used.\n" in shown(clean)
    assert {row["metric"] for row in select(REPORT, scope="ledger")} == {
        *(key for key, _ in RULES.values()),
        "normalized",
        "clipped",
    }


def test_the_end_says_where_it_came_from() -> None:
    end = shown(REPORT).rstrip("\n").split("\n\n")[-1].replace(units.NARROW_SPACE, "_").splitlines()
    assert end == [
        "- **input** `data/digits[bold].parquet` · 1_234_600 rows · 123 MB",
        "- **options** `label=label` · `logits=logits`",
        "- **run** 2.35 s · 526 k rows/s · 52.6 MB/s · cpu · local · 2 threads",
        f"- **digest** `{REPORT['digest']}`",
        f"- **version** streamloss {REPORT['version']}",
    ]


def test_a_comment_on_github_can_hold_it() -> None:
    slices = [_slice({"name": f"a slice with a name of its own {i}", "n": i}, i / 10, i) for i in range(1000)]
    classes = [REPORT["per_class"][3] | {"class": f"class {i}", "cross_entropy": float(i)} for i in range(1000)]
    inputs = [{"path": f"part-{i}.parquet", "bytes": 1, "rows": 1} for i in range(1000)]
    assert len(shown(FULL | {"slices": slices, "per_class": classes, "inputs": inputs})) < 65_536


# Escaping

HOSTILE = (
    "a|b",
    "\\|",
    "``` `x` ``",
    "`",
    "<script>alert(1)</script>",
    "</td><img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "![x](http://example.com/x.png)",
    "*a* _b_ ~~c~~ **d**",
    "&lt; &#64; &amp;",
    "line\nbreak\r\n\n# heading",
    "# heading",
    "- list",
    "+ list",
    "12. list",
    "3) list",
    "> quote",
    "---",
    "| - |",
    "@everyone",
    "a@b.example",
    "fixes #123",
    "http://example.com www.example.com",
    ":smile: $x$",
    "trailing\\",
    "  spaces  ",
    "\x1b[2J\x07\udc80",
    "é 日本 \N{RIGHT-TO-LEFT OVERRIDE}",
)
# What GitHub makes a link, a mention or a picture of after the Markdown is done, in texts that are not code.
LINKED = re.compile(r"@\w|#\d|:[\w+-]+:")
FOUND_WHILE_PARSING = re.compile(r"(?<!\\)(?:www\.|://)", re.IGNORECASE)


def hostile(text: str) -> dict[str, Any]:
    """A report with this text wherever the user's text can stand."""
    report = copy.deepcopy(FULL)
    report["inputs"][0]["path"] = text
    report["options"] = {"label": text}
    report["per_class"][0]["class"] = text
    report["slices"] = [_slice({text: text, "n": text}, 0.5, 10)]
    report["slicing"] = [{"by": [text, "n"], "slices": 1, "shown": 1}]
    report["gates"] = [{"rule": text, "value": None, "outcome": "undecided", "reason": text}]
    report["conventions"] = {"torch": {"cross_entropy": {"value": 1.0, "difference": 0.1, "cause": text}}}
    report["metrics"]["ece"] = {"title": "ECE", "unit": "", "mean": None, "reason": text}
    return report


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text(text: str) -> None:
    ours, tame = (parsed(shown(hostile(each))) for each in (text, "tame"))
    # The same headings, lists and tables as with a text that holds nothing, of as many cells, and the text in its places.
    assert [token.type for token in ours] == [token.type for token in tame]
    inlines = [(words(a), words(b)) for a, b in zip(ours, tame, strict=True) if a.type == "inline"]
    written = (units.printable(text), units.printable(slice_value(text)))
    assert all(a.strip() in [b.replace("tame", each).strip() for each in written] for a, b in inlines)
    assert sum("tame" in b for _, b in inlines) >= 10
    for child in (child for token in ours for child in token.children or []):
        assert child.type == "code_inline" or not LINKED.search(child.content)


ANY = st.text(st.characters(codec=None) | st.sampled_from("`|\\*_<>[]&~$@#:.w-+= 1a\n"), max_size=30)


@settings(deadline=None)
@given(ANY)
@example("`@a")
@example("\\`@a`")
@example(":a::b:")
def test_any_text_comes_out_as_it_went_in(text: str) -> None:
    plain = units.printable(text)
    cells = [plain, str(plain), "end"] if plain else ["end"]
    [[_, found]] = tables(markdown._grid([columns.Column("a", [cell], 0, "name") for cell in cells]))
    assert found == ([plain, plain.strip(), "end"] if plain else ["end"])


@settings(deadline=None)
@given(ANY)
@example("1. a")
@example("- a")
@example("---")
def test_any_sentence_is_a_paragraph(text: str) -> None:
    sentence = str(units.printable(text)).strip()
    line = markdown._line([sentence])
    tokens = parsed(line)
    assert [token.type for token in tokens] == (["paragraph_open", "inline", "paragraph_close"] if sentence else [])
    assert not sentence or words(tokens[1]) == sentence
    assert not FOUND_WHILE_PARSING.search(line)


# CSV


@pytest.mark.parametrize("name", golden.CASES)
def test_csv_gives_back_the_numbers_of_the_json_to_the_bit(name: str) -> None:
    check(kept(name))


@pytest.mark.parametrize("report", [REPORT, infinite(), FULL], ids=["plain", "infinite", "full"])
def test_csv_holds_every_number(report: dict[str, Any]) -> None:
    check(report)


def check(report: dict[str, Any]) -> None:
    """Every number of the report stands in the CSV, and the CSV holds no other row."""
    rows = records(report)
    taken = 0

    def expect(fields: dict[str, Any], **where: str) -> None:
        nonlocal taken
        [row] = [row for row in rows if all(row[name] == value for name, value in {"slice": "", "item": "", **where}.items())]
        for name, value in fields.items():
            assert same(row[name], value), (where, name, row[name], value)
        for name in row.keys() - fields.keys() - where.keys() - {"unit", "rows", "weight", "digest", "reason", "slice", "item"}:
            assert row[name] == "", (where, name)
        assert row["digest"] == report["digest"]
        taken += 1

    def metrics(part: dict[str, Any], **where: str) -> None:
        for key, metric in part.items():
            fields = {name: value for name, value in metric.items() if name not in ("title", "quantiles")}
            quantiles = {f"q{level}": value for level, value in metric.get("quantiles", {}).items()}
            expect(fields | quantiles, metric=key, **where)

    for part in (report, *report["slices"]):
        where = {"slice": slice_name(part["by"].items(), part.get("other", False))} if "by" in part else {}
        metrics(part["metrics"], scope="slice" if where else "all", **where)
        metrics(part.get("baseline", {}).get("metrics", {}), scope="baseline", **where)
        for key, pair in part.get("comparison", {}).items():
            place = where | {"scope": "comparison", "metric": key}
            ends = {item: {name: pair.get(prefix + name) for name in ("stderr", "low", "high")}
                    for item, prefix in (("difference", ""), ("ratio", "ratio_"))}  # fmt: skip
            quantiles = {f"q{level}": value for level, value in pair.get("quantiles", {}).items()}
            ends["difference"] |= quantiles | {name: pair.get(name) for name in ("min", "max")}
            for item in pair.keys() & {"new", "old", "difference", "ratio", "correlation"}:
                expect({"mean": pair[item]} | ends.get(item, {}), item=item, **place)
        for key, count in part["rows"].items():
            expect({"rows": count}, scope="rows", metric=key, **where)
    for entry in report.get("slicing", []):
        by = ", ".join(entry["by"])
        expect({"slices": entry["slices"]}, scope="slicing", slice=by, item="found")
        expect({"slices": entry["shown"]}, scope="slicing", slice=by, item="shown")
        expect(entry["small"], scope="slicing", slice=by, item="small")
        expect(entry["other"], scope="slicing", slice=by, item="other")
        for key, macro in entry.get("macro", {}).items():
            expect({"mean": macro["mean"], "slices": macro["slices"]}, scope="macro", slice=by, metric=key)
    for name, values in report["conventions"].items():
        for key, value in values.items():
            expect({"mean": value["value"]}, scope="convention", item=name, metric=key)
            if value["difference"] is not None:
                expect({"mean": value["difference"]}, scope="convention_difference", item=name, metric=key)
    for entry in report["per_class"]:
        for key in entry.keys() - {"class", "rows"}:
            expect({"mean": entry[key], "rows": entry["rows"]}, scope="class", item=str(entry["class"]), metric=key)
    for entry in report["reliability"]:
        for key in ("confidence", "accuracy"):
            place = {"bin_low": repr(entry["low"]), "bin_high": repr(entry["high"])}
            expect({"mean": entry[key], "rows": entry["rows"]}, scope="reliability", metric=key, **place)
    for gate in report["gates"]:
        expect({"mean": gate["value"], "outcome": gate["outcome"]}, scope="gate", item=gate["rule"])
    for key, count in report["ledger"].items():
        expect({"rows": count}, scope="ledger", metric=key)
    assert taken == len(rows)


@settings(deadline=None)
@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_any_number_comes_back(mean: float, low: float) -> None:
    report = REPORT | {"metrics": {"entropy": {"mean": mean, "low": low, "unit": "nat"}}}
    [row] = select(report, scope="all")
    assert same(row["mean"], mean)
    assert same(row["low"], low)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_text_is_a_formula_and_no_number_is_a_text(start: str) -> None:
    text = f"{start}1+1"
    rows = records(hostile(text))
    for row in rows:
        assert not any(value.startswith(start) for name, value in row.items() if name in ("slice", "item", "metric", "reason"))
    assert [row["item"] for row in rows if row["scope"] == "gate"] == [f"'{text}"]
    [row] = select(REPORT, scope="all", metric="overconfidence")
    assert row["mean"] == "-0.0113"
    [row] = select(REPORT | {"metrics": {"d2": {"mean": "-inf"}}}, scope="all")
    assert row["mean"] == "-inf"


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@example('a"b,c;\r\nd\0')
def test_any_text_survives_the_csv(text: str) -> None:
    report = REPORT | {"gates": [{"rule": text, "value": 1.0, "outcome": "pass"}]}
    [row] = select(report, scope="gate")
    assert row["item"] == (f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") and text else text)


@pytest.mark.parametrize(
    ("by", "name"),
    [
        ({"group": "a", "b": 1}, "group=a, b=1"),
        ({"a": None, "b": True}, "a=null, b=true"),
        ({"a": "null"}, 'a="null"'),
        ({"a": "New York, NY"}, 'a="New York, NY"'),
        ({"a": ""}, 'a=""'),
        ({"a": "(other)"}, 'a="(other)"'),
        ({"a": 'say "x"\n'}, 'a="say \\"x\\"\n"'),
        ({"a b": "c d"}, "a b=c d"),
        ({"a,b": 1}, '"a,b"=1'),
        ({"a": "x=y"}, 'a="x=y"'),
        ({"a": -3}, "a=-3"),
    ],
)
def test_the_name_of_a_slice_is_of_one_slice(by: dict[str, Any], name: str) -> None:
    assert slice_name(by.items()) == name


def test_the_rest_of_the_slices_is_no_slice_of_that_name() -> None:
    assert slice_name({"a": "(other)"}.items(), other=True) == "a=(other)"


# The table of formats


def test_every_format_has_its_renderer() -> None:
    for name, kind in shared.FORMATS.items():
        if kind.module is not None:
            assert isinstance(import_module(f"streamloss.reporting.{kind.module}").encode(REPORT), bytes), name
    endings = [ending for kind in shared.FORMATS.values() for ending in kind.endings]
    assert len(endings) == len(set(endings))
    assert all(ending.startswith(".") and ending == ending.lower() for ending in endings)


def test_the_command_line_writes_what_the_ending_says(tmp_path: Path) -> None:
    state = str(tmp_path / "digits.state")

    def run(*words: str) -> Any:
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == 0, result.output
        return result

    run("evaluate", DIGITS, "-o", str(tmp_path / "a.MD"), "--save-state", state)
    text = (tmp_path / "a.MD").read_text(encoding="utf-8")
    assert text.startswith("# streamloss evaluate\n")
    run("report", state, "-o", str(tmp_path / "b.csv"))
    lines = (tmp_path / "b.csv").read_bytes().split(b"\r\n")
    assert lines[0].startswith(b"scope,slice,item,metric,unit,mean,")
    assert run("report", state, "--format", "csv").stdout_bytes == b"\r\n".join(lines)
    assert run("report", state, "--format", "markdown").stdout.startswith("# streamloss report\n")
    run("report", state, "--format", "json", "-o", str(tmp_path / "c.csv"))
    assert json.loads((tmp_path / "c.csv").read_text())["digest"]
    # What is no report has no such format.
    assert CliRunner().invoke(cli, ["inspect", DIGITS, "--format", "csv"]).exit_code == 2
    run("inspect", DIGITS, "-o", str(tmp_path / "d.md"))
    assert "streamloss inspect" in (tmp_path / "d.md").read_text(encoding="utf-8")


def test_a_mark_of_the_users_text_is_lost_with_other_text() -> None:
    assert isinstance(units.printable("x"), Given)
    assert not isinstance(f"a {units.printable('x')}", Given)
