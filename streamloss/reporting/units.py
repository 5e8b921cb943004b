"""Numbers for people: digits from the standard error, percentages, grouped counts, bytes, durations, rates.

Pure functions of plain numbers. A report's infinity is the string "inf", as in the JSON; here it becomes ∞. Digits
beyond the standard error say nothing, so an error is shown with two digits and its value with as many decimals.
"""

from __future__ import annotations

import math
import unicodedata

Number = float | int | str

NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"
# The quantities that are shares of rows (or differences of shares), and are read as percentages.
_PERCENT = frozenset(("same_top", "ece", "mce", "rmsce", "adaptive_ece", "mean_confidence", "overconfidence"))
_LONG_DECIMALS = 9


def is_percent(key: str) -> bool:
    """Whether a quantity is shown as a percentage."""
    return key in _PERCENT or is_accuracy(key)


def is_accuracy(key: str) -> bool:
    """Whether a quantity is the accuracy, or that of the top k."""
    return key == "accuracy" or (key.startswith("top") and key.endswith("_accuracy"))


def number(value: Number, error: Number | None = None, *, percent: bool = False, digits: int = 4) -> str:
    """A value with the decimals its standard error allows, or with so many significant digits when it has none."""
    v = _scaled(value, percent)
    if not math.isfinite(v):
        return _special(v)
    places = _decimals(error, percent)
    text = _significant(v, digits) if places is None else _fixed(v, places)
    return f"{text} %" if percent else text


def measured(value: Number, error: Number | None = None, *, percent: bool = False, digits: int = 4) -> str:
    """`0.2815 ± 0.0047`: a value and its standard error; the value alone when the error is unknown, 0 or infinite."""
    v, places = _scaled(value, percent), _decimals(error, percent)
    if error is None or places is None or not math.isfinite(v):
        return number(value, None, percent=percent, digits=digits)
    text = f"{_fixed(v, places)} ± {_fixed(_scaled(error, percent), places)}"
    return f"{text} %" if percent else text


def interval(low: Number, high: Number, error: Number | None = None, *, percent: bool = False) -> str:
    """`0.2723 … 0.2907`."""
    low_text, high_text = number(low, error, percent=percent), number(high, error, percent=percent)
    return f"{low_text.removesuffix(' %')} … {high_text}"


def difference(value: Number, error: Number | None = None, *, percent: bool = False) -> str:
    """`+0.0120 ± 0.0047`: a difference with its sign and its standard error; of two shares in percentage points."""
    text = measured(value, error, percent=percent, digits=3).replace(" %", " pp")
    return f"+{text}" if float(value) > 0 else text


def exact(value: float) -> str:
    """Six decimals, for a calculation that is shown term by term."""
    if not math.isfinite(value):
        return _special(value)
    return f"{value:.6f}" if value == 0 or 1e-4 <= abs(value) < 1e9 else _scientific(value, 6)


def given(value: float) -> str:
    """A number as a person would have typed it, to six digits."""
    return f"{value:.6g}" if math.isfinite(value) else _special(value)


def beside(value: Number, limit: Number) -> str:
    """A number with as many digits, six or more, as show on which side of a limit it lies."""
    v, bound = float(value), float(limit)
    if not math.isfinite(v):
        return _special(v)
    # Seventeen digits are the number itself.
    return next(text for n in (6, 9, 17) if _order(float(text := f"{v:.{n}g}"), bound) == _order(v, bound))


def share(value: Number) -> str:
    """`87.3 %`: a share to a tenth of a percent, for a column of them."""
    return f"{100 * float(value):.1f} %"


def gap(value: Number) -> str:
    """A difference of two shares in percentage points, with its sign: `+1.2`."""
    return f"{100 * float(value):+.1f}"


def level(share: Number) -> str:
    """`95 %`, `99.9 %`: a level of confidence, with the digits that it was asked for with."""
    return f"{100 * float(share):g} %"


def quantile(share: Number) -> str:
    """The same of a quantile: `median`, `99 %`."""
    return "median" if float(share) == 0.5 else level(share)


def count(n: int) -> str:
    """`12 345 678`, grouped by narrow no-break spaces; four digits stay together."""
    return str(n) if abs(n) < 10_000 else f"{n:,}".replace(",", NARROW_SPACE)


def counted(n: int, one: str, many: str | None = None) -> str:
    """`1 row`, `12 345 rows`."""
    return f"{count(n)} {one if n == 1 else many or one + 's'}"


def size(n: float) -> str:
    """Bytes in powers of 1000: `982 B`, `1.23 GB`."""
    return _prefixed(n, ("B", "kB", "MB", "GB", "TB", "PB"))


def rate(per_second: float, of: str = "rows") -> str:
    """`4.31 M rows/s`."""
    return f"{_prefixed(per_second, ('', 'k', 'M', 'G')).rstrip()} {of}/s"


def throughput(bytes_per_second: float) -> str:
    """`1.86 GB/s`."""
    return f"{size(bytes_per_second)}/s"


def duration(seconds: float) -> str:
    """`0.42 s`, `12.3 s`, `3 min 07 s`, `2 h 05 min`."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def clock(seconds: float) -> str:
    """`0:07`, `12:30`, `2:05:00`: a time that is watched."""
    whole = math.ceil(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class Given(str):
    """Text that the user gave: no renderer takes it for its own markup. Joined to other text it is plain text again."""


def printable(text: object, most: int | None = None) -> Given:
    """User text (a path, a class name) that cannot steer the terminal, in at most so many characters.

    Control characters are escaped, and so is what neither UTF-8 nor XML can hold.
    """
    shown = "".join(c.encode("unicode_escape").decode("ascii") if _unprintable(c) else c for c in str(text))
    return Given(shown if most is None or len(shown) <= most else f"{shown[: most - 1]}…")


def _unprintable(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Cs") or c in "\ufffe\uffff"


def _scaled(value: Number, percent: bool) -> float:
    return float(value) * (100 if percent else 1)


def _order(a: float, b: float) -> int:
    return (a > b) - (a < b)


def _special(v: float) -> str:
    return "?" if math.isnan(v) else "∞" if v > 0 else "-∞"


def _decimals(error: Number | None, percent: bool) -> int | None:
    """The decimals that show two digits of an error; None when there is no error to go by."""
    e = _scaled(error, percent) if error is not None else 0.0
    if not math.isfinite(e) or e <= 0:
        return None
    # Rounded to two digits first, for 0.00996 is 0.010 and needs one decimal less than its logarithm says.
    return max(0, 1 - math.floor(math.log10(float(f"{e:.1e}"))))


def _fixed(v: float, places: int) -> str:
    if places > _LONG_DECIMALS or abs(v) >= 1e9:
        return _scientific(v, 2)
    text = f"{v:,.{places}f}" if abs(v) >= 10_000 else f"{v:.{places}f}"
    return text.replace(",", NARROW_SPACE)


def _significant(v: float, digits: int) -> str:
    if v == 0:
        return "0"
    # Of the rounded value, for 0.99998 has the digits of 1.
    exponent = int(f"{v:.{digits - 1}e}".split("e")[1])
    if exponent < -3 or exponent > 8:
        return _scientific(v, digits - 2)
    return _fixed(v, max(0, digits - 1 - exponent))


def _scientific(v: float, places: int) -> str:
    mantissa, exponent = f"{v:.{max(places, 0)}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _prefixed(n: float, names: tuple[str, ...]) -> str:
    i = 0
    # 999.5 would be rounded to 1000, so it already belongs to the next prefix.
    while n >= 999.5 and i < len(names) - 1:
        n, i = n / 1000, i + 1
    digits = 0 if i == 0 or n >= 99.95 else 1 if n >= 9.995 else 2
    return f"{n:.{digits}f} {names[i]}"
