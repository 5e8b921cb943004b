"""What `streamloss inspect` says: what is there, what would be used, and the command to type. Nothing is evaluated."""

from __future__ import annotations

import shlex
from typing import Any

import pyarrow as pa

from streamloss.errors import DataError, UsageError
from streamloss.options import PREDICTIONS, ROLES, TARGETS, Options
from streamloss.reading.advice import Stored, advice, stored_as
from streamloss.reading.arrow import Footer
from streamloss.reading.layouts import is_number, layout_of, storage, value_dtype
from streamloss.reading.roles import Plan, suggestion


def facts(
    paths: list[str],
    files: list[dict[str, Any]],
    schema: pa.Schema,
    footers: list[Footer],
    options: Options,
    plan: Plan | None,
    problem: str | None,
    left: dict[str, str],
) -> dict[str, Any]:
    """JSON-ready facts about the input; `footers` are empty for a stream, `plan` is None when there is a `problem`.

    left: the needed columns that the page reader leaves to pyarrow, and why.
    """
    rows = [file["rows"] for file in files]
    sizes = [file["bytes"] for file in files]
    stored = stored_as(footers, schema.names) if footers else {}
    return {
        "files": [{name: file[name] for name in ("path", "bytes", "rows")} for file in files],
        "rows": None if None in rows else sum(rows),
        "bytes": None if None in sizes else sum(sizes),
        "columns": [_column(field, options, plan, stored.get(field.name), left) for field in schema],
        "row_groups": sum(f.metadata.num_row_groups for f in footers) if footers else None,
        "reader": _readers(plan, left),
        "advice": advice(schema, footers, stored, plan, left),
        "family": plan.task.family if plan else None,
        "classes": plan.task.classes if plan else None,
        "command": _command(paths, schema, options, plan),
        "problem": problem,
    }


def _readers(plan: Plan | None, left: dict[str, str]) -> str | None:
    """Who would read the needed columns: 'pages', 'arrow' or 'both'."""
    if plan is None:
        return None
    names = {"arrow" if name in left else "pages" for name in plan.needed}
    return "both" if len(names) > 1 else names.pop()


def _column(
    field: pa.Field, options: Options, plan: Plan | None, stored: Stored | None, left: dict[str, str]
) -> dict[str, Any]:
    columns = plan.columns if plan else {}
    role = next((role for role, names in columns.items() if field.name in names), None)
    classes: int | None = None
    dtype: str | None = None
    try:
        layout = layout_of(field, options.dtype, None)
        dtype = layout.dtype if layout else value_dtype(field, options.dtype, None, field.name)
    except (UsageError, DataError):
        layout = None  # bits of unknown meaning: `problem` says so when the column is needed
    kind = layout.kind if layout else ("flat" if is_number(field) else None)
    if not layout and not pa.types.is_floating(storage(field.type)) and role not in (*PREDICTIONS, *TARGETS):
        dtype = None  # integers are numbers of float64 only where they predict
    if layout:
        classes = layout.classes
        if plan and role in (*PREDICTIONS, *TARGETS):
            classes = plan.task.classes
    return {
        "name": field.name,
        "type": str(field.type),
        "role": role,
        "layout": kind,
        "dtype": dtype,
        "classes": classes,
        "nullable": field.nullable,
        "encodings": sorted(stored.encodings) if stored else [],
        "codec": (", ".join(sorted(stored.codecs)) or None) if stored else None,
        "bytes": stored.bytes if stored else None,
        "reader": None if role is None else "arrow" if field.name in left else "pages",
        "reader_reason": left.get(field.name),
    }


def _command(paths: list[str], schema: pa.Schema, options: Options, plan: Plan | None) -> str | None:
    """The shortest command that evaluates this; with options that would have to be tried when it cannot be as it is."""
    words = ["streamloss", "evaluate", *paths]
    named = {group: [role for role in group if role in schema.names] for group in (PREDICTIONS, TARGETS)}
    given = False
    for role in ROLES:
        value = getattr(options, role)
        if value is None or (value == "" and role not in schema.names):
            continue
        rivals = next((names for group, names in named.items() if role in group), [role])
        given = given or role in PREDICTIONS
        if value != role or rivals != [role]:
            words += ["--" + role.replace("_", "-"), value]
    if options.dtype:
        words += ["--dtype", options.dtype]
    if options.classes:
        words += ["--classes", ",".join(options.classes)]
    if options.ignore_index is not None:
        words += ["--ignore-index", str(options.ignore_index)]
    if plan is None and not given and not named[PREDICTIONS]:
        found = suggestion(schema)
        if not found:
            return None
        words += found
    return shlex.join(words)
