"""Which column plays which role: schema and options become a `Plan`, before a single row is converted.

A role (`logits`, `label`, `weight`, …) is filled by the column its option names, or by the column that is called like
the role; an option that is the empty string leaves the role empty. Whether numbers are logits or probabilities follows
from the role alone, never from the numbers. K-class values stand in one column (list, large_list, list_view,
fixed_size_list, arrow.fixed_shape_tensor, fixed_size_binary) or in K flat ones (a pattern 'p_*' in natural order, or
'a,b,c').
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, cast

import pyarrow as pa

from streamloss.errors import DataError, Place, UsageError
from streamloss.memory import Allotment
from streamloss.options import PREDICTIONS, ROLES, TARGETS, Form, LabelKind, Options, Task
from streamloss.reading.batch import ARRAY_DTYPES
from streamloss.reading.layouts import is_number, key_kind_of, label_kind_of, layout_of, storage, value_dtype

PathKey = Literal["file", "number", "text"]  # what a path tells of a column: the path itself, or a partition's value
Reader = Literal["auto", "pages", "arrow"]  # who reads Parquet: pages where it can, nobody but pages, nobody but pyarrow

SCALAR_PREDICTIONS = ("logit", "prob", "logprob")
CLASS_ROLES = ("logits", "probs", "logprobs", *TARGETS)
BATCH_BYTES = 8 << 20
SLICED_BATCH_ROWS = 1 << 20
MAX_BATCH_ROWS = 262_144  # so many that what Python does for a batch costs nothing beside them


@dataclass(frozen=True)
class Plan:
    """All that turning columns into batches needs; small and picklable.

    `kinds` and `types` say for every needed column what it must hold in every file, and how it was spelled in `path`.
    """

    options: Options
    task: Task
    roles: dict[str, str]  # role -> column, pattern or comma list, as it is shown to people
    columns: dict[str, tuple[str, ...]]  # role -> columns
    kinds: dict[str, str]
    types: dict[str, str]
    path: str | None
    prediction_dtype: str
    target_dtype: str | None
    batch_rows: int
    reader: Reader = "auto"
    of_path: tuple[tuple[str, PathKey], ...] = ()  # columns of --by that the path tells, not the file
    kept: tuple[tuple[pa.Field, PathKey | None], ...] = ()  # columns that go through as they are, and if the path tells them
    memory: Allotment | None = None  # of a budget, for whoever reads this in whatever process

    @property
    def prediction(self) -> str:
        """The role of the prediction: 'logits', 'prob', …"""
        return next(role for role in PREDICTIONS if role in self.columns)

    @property
    def target(self) -> str | None:
        """The role of the target, if there is one."""
        return next((role for role in TARGETS if role in self.columns), None)

    @property
    def text_keys(self) -> list[str]:
        """Columns of text that are read to group by and for nothing else; pyarrow may read them as dictionaries."""
        others = {name for role, names in self.columns.items() if role != "by" for name in names} | {*self.kept_names}
        return [name for name in self.columns.get("by", ()) if self.kinds[name] == "name" and name not in others]

    @property
    def kept_names(self) -> tuple[str, ...]:
        """The columns of the file that go through as they are."""
        return tuple(field.name for field, told in self.kept if told is None)

    @property
    def row_bytes(self) -> int:
        """What the values of one row take when they are decoded."""
        count = self.task.classes if self.prediction in CLASS_ROLES else 1
        dtypes = [dtype for dtype in (self.prediction_dtype, self.target_dtype) if dtype]
        others = sum(role in self.columns for role in ("label", "weight", "mask", "bytes")) + len(self.columns.get("by", ()))
        return count * sum(ARRAY_DTYPES[dtype].itemsize for dtype in dtypes) + 8 * others

    @property
    def needed(self) -> tuple[str, ...]:
        """Every column that must be read, each once."""
        return tuple(dict.fromkeys(name for names in self.columns.values() for name in names))


def make_plan(
    schema: pa.Schema,
    options: Options,
    first_length: Callable[[str], int | None],
    *,
    path: str | None = None,
    batch_rows: int | None = None,
    reader: Reader = "auto",
    partitions: Mapping[str, PathKey] | None = None,
    keys: tuple[str, ...] = (),
) -> Plan:
    """Decide roles, family, K and dtypes; `partitions` are the hive partition columns that --by may name, `keys` more columns
    that are read like those of --by.

    `first_length(column)` gives the length of the first row of a list column that is not null; it is asked only where
    neither the type nor `--classes` fixes K. Raises `UsageError` for what the options leave open, `DataError` for
    columns that are missing or cannot serve.
    """
    roles, columns = _find(schema, options, path)
    grouped = [name for names in options.groupings for name in names] + ([options.cluster] if options.cluster else [])
    by, of_path = _groupings(schema, [*keys, *grouped], partitions or {}, path)
    if by:
        columns["by"] = by
    prediction = next(role for role in PREDICTIONS if role in roles)
    target = next((role for role in TARGETS if role in roles), None)
    kinds = {
        name: kind_of(role, schema.field(name), options, path, len(names) > 1)
        for role, names in columns.items()
        for name in names
    }
    wide = [names for role, names in columns.items() if role in CLASS_ROLES and len(names) > 1]
    for names in wide:
        for name in names[1:]:
            if kinds[name] != kinds[names[0]]:
                raise DataError(
                    f"columns {names[0]!r} ({schema.field(names[0]).type}) and {name!r} ({schema.field(name).type}) "
                    "must hold one type, they are the classes of one prediction",
                    place=Place(path),
                )
    family: Literal["binary", "categorical", "pair", "score"]
    if prediction in SCALAR_PREDICTIONS:
        family = "score" if prediction == "logprob" else "binary"
    else:
        family = "pair" if target else "categorical"
    classes = _classes(family, schema, options, roles, columns, first_length, path)
    label = _label_kind(family, kinds[columns["label"][0]] if "label" in columns else None, options, path, roles)
    task = Task(
        family=family,
        form=_form(prediction),
        classes=classes,
        target_form=_form(target) if target else None,
        label=label,
        weighted="weight" in roles or options.class_weights is not None,
        bytes="bytes" in roles,
    )
    _check_task(task, options)
    prediction_dtype = kinds[columns[prediction][0]]
    target_dtype = kinds[columns[target][0]] if target else None
    plan = Plan(
        options=options,
        task=task,
        roles=roles,
        columns=columns,
        kinds=kinds,
        types={name: str(schema.field(name).type) for name in kinds},
        path=path,
        prediction_dtype=prediction_dtype,
        target_dtype=target_dtype,
        batch_rows=batch_rows or 0,
        reader=reader,
        of_path=of_path,
    )
    if batch_rows:
        return plan
    # Rows that are sorted by slice are the quicker to add the more there are of a slice.
    most = SLICED_BATCH_ROWS if options.by and plan.row_bytes <= 32 else MAX_BATCH_ROWS
    size = BATCH_BYTES * most // MAX_BATCH_ROWS
    return replace(plan, batch_rows=min(max(1, size // plan.row_bytes), most))


def past_nulls(plan: Plan, files: Iterable[tuple[str, pa.Schema]]) -> Plan:
    """The plan with columns of --by that are all null in its first file taken for what they are in the first that says more."""
    rest = iter(files)
    while unknown := [name for name in plan.columns.get("by", ()) if plan.kinds[name] == "null"]:
        if (found := next(rest, None)) is None:
            break
        path, schema = found
        fields = [one_field(schema, name, path) for name in unknown]
        kinds = {field.name: kind for field in fields if (kind := key_kind_of(field.type)) not in (None, "null")}
        types = {field.name: f"{field.type} in {path}, null" for field in fields if field.name in kinds}
        plan = replace(plan, kinds=plan.kinds | kinds, types=plan.types | types)
    return plan


def check_schema(plan: Plan, schema: pa.Schema, path: str | None) -> None:
    """Raise `DataError` unless every needed column of another file holds what it holds in the plan's first file.

    A column of --by may be all null too.
    """
    for role, names in plan.columns.items():
        for name in names:
            field = one_field(schema, name, path)
            try:
                kind: str | None = kind_of(role, field, plan.options, path, len(names) > 1)
                if len(names) == 1 and role in CLASS_ROLES:
                    layout = layout_of(field, plan.options.dtype, path)
                    if layout and layout.classes not in (None, plan.task.classes):
                        kind = None
            except DataError:
                kind = None
            if kind != plan.kinds[name] and not (role == "by" and kind == "null"):
                raise DataError(
                    f"the schemas of the files differ: column {name!r} is {field.type} here and {plan.types[name]} in "
                    f"{plan.path or 'the first batch'}",
                    place=Place(path),
                )


def one_field(schema: pa.Schema, name: str, path: str | None, besides: Sequence[str] = ()) -> pa.Field:
    """The field called `name`; `DataError` when there is none (with the nearest name, of `besides` too) or more than one."""
    found = schema.get_all_field_indices(name)
    if len(found) == 1:
        return schema.field(found[0])
    if found:
        raise DataError(f"there are {len(found)} columns called {name!r}", place=Place(path))
    names = [*schema.names, *besides]
    near = difflib.get_close_matches(name, names, n=1) or [n for n in names if n.lower() == name.lower()]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DataError(f"no column {name!r}; there are {_listing(names)}{hint}", place=Place(path))


def kind_of(role: str, field: pa.Field, options: Options, path: str | None, wide: bool = False) -> str:
    """What the column holds for its role: the dtype of a prediction, else 'number', 'name', 'soft', 'mask', 'bytes'.

    Raises `DataError` when it cannot fill the role.
    """
    kind = storage(field.type)
    found: str | None
    if role in CLASS_ROLES and not wide:
        layout = layout_of(field, options.dtype, path)
        found = layout.dtype if layout else None
        expected = "a list (or fixed-size list or binary) of K numbers a row"
        if found is None and is_number(field):
            single = role.removeprefix("target_")[:-1]
            expected += f"; for one number a row use --{single}, for K columns a pattern"
    elif role in CLASS_ROLES or role in SCALAR_PREDICTIONS:
        found = value_dtype(field, options.dtype, path, field.name)
        expected = "a number a row"
        if found is None and role in SCALAR_PREDICTIONS and pa.types.is_nested(kind):
            expected += f"; for K numbers a row use --{role}s"
    elif role == "label":
        found, expected = label_kind_of(field.type), "integers, booleans, strings or, for a binary prediction, floats"
    elif role == "weight":
        found = "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else None
        expected = "numbers"
    elif role == "by":
        found, expected = key_kind_of(field.type), "integers, booleans or strings (put floats into bins first)"
    elif role == "mask":
        found = "mask" if pa.types.is_boolean(kind) or pa.types.is_integer(kind) else None
        expected = "booleans"
    else:
        found, expected = "bytes" if pa.types.is_integer(kind) else None, "integers"
    if found is None:
        unasked = getattr(options, role, None) is None and role != "by"
        hint = f" (it was found by its name; --{role.replace('_', '-')} '' leaves it out)" if unasked else ""
        raise DataError(
            f"wrong type {field.type} for {role.replace('_', ' ')}: expected {expected}{hint}",
            place=Place(path, column=field.name),
        )
    return found


def suggestion(schema: pa.Schema) -> list[str]:
    """Options that would make use of columns of unconventional names, ['--logits', 'scores']; empty without any."""
    lists = [f.name for f in schema if _looks_like_classes(f)]
    flats = [f.name for f in schema if pa.types.is_floating(storage(f.type))]
    labels = [f.name for f in schema if label_kind_of(f.type) == "number"]
    if not lists and not flats:
        return []
    words = ["--logits", lists[0]] if lists else ["--prob", flats[0]]
    return [*words, "--label", labels[0]] if len(labels) == 1 and "label" not in schema.names else words


def _looks_like_classes(field: pa.Field) -> bool:
    kind = storage(field.type)
    if pa.types.is_fixed_size_binary(kind):
        return bool(kind.byte_width >= 4)
    return hasattr(kind, "value_field") and bool(pa.types.is_floating(kind.value_field.type))


def _find(schema: pa.Schema, options: Options, path: str | None) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Fill the roles, by option first and by name where no option is given; of several names the first of the table's order."""
    roles: dict[str, str] = {}
    for group in (PREDICTIONS, TARGETS):
        given = [role for role in group if getattr(options, role)]
        named = [role for role in group if getattr(options, role) is None and role in schema.names]
        if given:
            roles[given[0]] = getattr(options, given[0])
        elif group is TARGETS and not set(roles).isdisjoint(SCALAR_PREDICTIONS):
            continue
        elif named:
            roles[named[0]] = named[0]
        elif group is PREDICTIONS:
            raise UsageError(_no_prediction(schema, path))
    for role in ("label", "weight", "mask", "bytes"):
        given_name = getattr(options, role)
        if given_name:
            roles[role] = given_name
        elif given_name is None and role in schema.names:
            roles[role] = role
    # Nothing but an ignore index needs the label of a bare score.
    if "logprob" in roles and options.ignore_index is None:
        roles.pop("label", None)
    roles = {role: roles[role] for role in ROLES if role in roles}
    columns = {role: _columns(schema, role, name, path) for role, name in roles.items()}
    return roles, columns


def _groupings(
    schema: pa.Schema, wanted: Sequence[str], partitions: Mapping[str, PathKey], path: str | None
) -> tuple[tuple[str, ...], tuple[tuple[str, PathKey], ...]]:
    """The columns of --by that the file has, and those that its path tells; 'file' is the path itself where nothing else is."""
    known: dict[str, PathKey] = {"file": "file", **partitions}
    names = tuple(dict.fromkeys(wanted))
    inside = tuple(name for name in names if name in schema.names or name not in known)
    for name in inside:
        one_field(schema, name, path, [*partitions])
    return inside, tuple((name, known[name]) for name in names if name not in inside)


def _columns(schema: pa.Schema, role: str, name: str, path: str | None) -> tuple[str, ...]:
    names: tuple[str, ...] = (name,)
    if name not in schema.names and role in CLASS_ROLES:
        if any(sign in name for sign in "*?["):
            names = tuple(sorted({n for n in schema.names if fnmatchcase(n, name)}, key=_natural))
            if not names:
                raise DataError(f"no column matches {name!r}; there are {_listing(schema.names)}", place=Place(path))
        elif "," in name:
            names = tuple(part.strip() for part in name.split(","))
    for one in names:
        one_field(schema, one, path)
    return names


def _natural(name: str) -> list[tuple[int, str]]:
    """p_2 before p_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _no_prediction(schema: pa.Schema, path: str | None) -> str:
    text = (
        f"{path or 'input'}: no column is called {', '.join(PREDICTIONS[:-1])} or {PREDICTIONS[-1]}; "
        f"say which column is the prediction, there are {_listing(schema.names)}"
    )
    options = suggestion(schema)
    return text + (f"; for example {shlex.join(options)}" if options else "")


def _listing(names: Sequence[str], limit: int = 20) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more


def _form(role: str) -> Form:
    forms: dict[str, Form] = {"logit": "logits", "prob": "probs", "logprob": "logprobs"}
    name = role.removeprefix("target_")
    return forms.get(name) or cast(Form, name)


def _classes(
    family: str,
    schema: pa.Schema,
    options: Options,
    roles: dict[str, str],
    columns: dict[str, tuple[str, ...]],
    first_length: Callable[[str], int | None],
    path: str | None,
) -> int:
    """K: by --classes, else by the type, else by the first row that is not null; the same for prediction and target."""
    wanted = len(options.classes) if options.classes else None
    if family == "score":
        return 0
    if family == "binary":
        if wanted not in (None, 2):
            raise UsageError(f"a binary prediction has two classes; --classes names {wanted}")
        return 2
    counts: dict[str, int] = {}
    for role in CLASS_ROLES:
        if role not in columns:
            continue
        names = columns[role]
        fixed: int | None = len(names)
        if len(names) == 1:
            layout = layout_of(schema.field(names[0]), options.dtype, path)
            fixed = layout.classes if layout else None
        place = Place(path, column=roles[role])
        if wanted and fixed not in (None, wanted):
            raise DataError(f"{fixed} values a row; --classes names {wanted}", place=place)
        count = wanted or fixed or first_length(names[0])
        if count is None:
            raise DataError("every row is null", place=place)
        if count < 2:
            raise DataError(f"{count} {'value' if count == 1 else 'values'} a row; expected two classes or more", place=place)
        counts[role] = count
    if len(set(counts.values())) > 1:
        (role, count), (other, other_count) = counts.items()
        raise DataError(
            f"prediction and target must have the same classes: {roles[role]!r} has {count}, "
            f"{roles[other]!r} has {other_count}",
            place=Place(path),
        )
    return next(iter(counts.values()))


def _label_kind(family: str, kind: str | None, options: Options, path: str | None, roles: dict[str, str]) -> LabelKind:
    hint = " (it was found by its name; --label '' leaves it out)" if options.label is None else ""
    if kind == "name" and options.classes is None:
        example = "no,yes" if family == "binary" else "cat,dog,bird"
        raise UsageError(
            f"labels in {roles['label']!r} are strings: say which class each is with --classes {example} "
            f"(in the order of the classes), or a file with one name a line{hint}"
        )
    if kind is None:
        if options.ignore_index is not None:
            raise UsageError("--ignore-index needs a label column: give --label")
        return "none"
    if family == "score":
        return "none"
    if kind == "soft" and family != "binary":
        raise DataError(
            f"labels of K classes are integers (or strings with --classes), not floats; soft labels go in --target-probs{hint}",
            place=Place(path, column=roles["label"]),
        )
    return "soft" if kind == "soft" else "hard"


def _check_task(task: Task, options: Options) -> None:
    """What only the columns can decide about the options."""
    if options.temperature != 1 and task.form != "logits":
        raise UsageError("--temperature divides logits, and the prediction is not logits; give the column as --logits")
    if options.target_temperature != 1 and task.target_form != "logits":
        raise UsageError("--target-temperature divides logits, and there are no target logits; give --target-logits")
    weights = options.class_weights
    if weights is None:
        return
    if task.label != "hard" or task.family == "pair":
        raise UsageError("--class-weights weighs rows by their hard label, and there is none to go by")
    if len(weights) != task.classes:
        raise UsageError(f"--class-weights gives {len(weights)} weights for {task.classes} classes")
