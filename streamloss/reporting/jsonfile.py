"""The report as strict JSON: infinities are the strings "inf" and "-inf", and a NaN is a bug that is never written."""

from __future__ import annotations

import json
import math
from typing import Any


def encode(value: Any) -> bytes:
    """UTF-8 JSON with the keys in the order given and a newline at the end.

    Raises `ValueError` on a NaN: what could not be computed is a null with its reason, made where the reason is known.
    """
    text = json.dumps(_strict(value, "report"), indent=2, ensure_ascii=False, allow_nan=False)
    # A path may hold bytes that are no UTF-8; Python keeps them as lone surrogates, and JSON can spell those: \udc80.
    return (text + "\n").encode("utf-8", errors="backslashreplace")


def _strict(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return {key: _strict(v, f"{where}.{key}") for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            raise ValueError(f"{where} is NaN, which no report may hold")
        return "inf" if value > 0 else "-inf"
    return value
