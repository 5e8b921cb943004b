"""Options from a TOML file: a table becomes what click would have been given on a command line.

    unit = "bit"                      # an option of the command, with - or _
    [options]                         # more of them, if that reads better
    fail_if = ["accuracy < 95%"]      # a list where the option can be repeated or takes one with commas

The commands' own parameters say which names there are and check the values, so an option is declared once. Paths in a file
are relative to it. A prediction (or a target) that is given replaces those of the layers below, for there can be one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from streamloss.cli import shared
from streamloss.errors import UsageError
from streamloss.options import PREDICTIONS, TARGETS

Table = dict[str, Any]
Value = bool | str | list[str]

RUNS = ("evaluate", "compare")  # the tables of `streamloss batch`
_CONFIG = "config"  # this option itself, which has no place in a file
# Of each of these there is one at a time.
_ALTERNATIVES = (PREDICTIONS, tuple(f"baseline_{role}" for role in PREDICTIONS), TARGETS)
# What an option's metavar says of its value.
_PLACES = {"PATH", "FILE", "DIR"}
_LISTS = {"COL", "LIST", "NAMES"}


def load(file: str) -> Table:
    """The tables of a TOML file. Raises `UsageError` when it cannot be read."""
    try:
        return tomllib.loads(Path(file).read_bytes().decode("utf-8"))
    except OSError as error:
        raise UsageError(f"{file}: cannot read the file: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8, which TOML is written in") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: not TOML: {error}") from error


def settings(document: Mapping[str, Any], where: str) -> Table:
    """The options that stand at the top of a file and in its [options], by their names with underscores."""
    options = document.get("options", {})
    if not isinstance(options, dict):
        raise UsageError(f"{where}: [options] is a table of options, not {options!r}")
    top = spelt({name: value for name, value in document.items() if name not in ("options", *RUNS)}, where)
    more = spelt(options, f"{where}, [options]")
    if twice := sorted({*top} & {*more}):
        raise UsageError(f"{where}: {twice[0]!r} stands at the top and in [options]")
    return top | more


def spelt(table: Mapping[str, Any], where: str) -> Table:
    """A table with the names of its options as Python has them. Raises `UsageError` when two become one."""
    found: Table = {}
    for name, value in table.items():
        if (plain := name.replace("-", "_")) in found:
            raise UsageError(f"{where}: {plain!r} is given twice, with - and with _")
        found[plain] = value
    return found


def layered(below: Table, above: Table) -> Table:
    """The options of two layers, of which the one above wins."""
    gone = {role for roles in _ALTERNATIVES if any(above.get(role) for role in roles) for role in roles}
    return {name: value for name, value in below.items() if name not in gone} | above


def parameters(command: click.Command) -> dict[str, click.Parameter]:
    """What a table for a command may hold: its options by their long names, and its paths."""
    found: dict[str, click.Parameter] = {}
    for param in command.params:
        names = [flag for flag in param.opts if flag.startswith("--")] or param.opts
        found[names[0].removeprefix("--").replace("-", "_")] = param
    return {name: param for name, param in found.items() if name != _CONFIG}


def check_names(table: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise `UsageError` for a name that is none of the known ones, with the nearest."""
    known = list(known)
    for name in table:
        if name not in known:
            from streamloss.reporting.rules import nearest

            raise UsageError(f"{where}: there is no option {name!r}{nearest(name, known)}")


def values(command: click.Command, table: Table, folder: Path, where: str) -> dict[str, Value]:
    """The options of a table, by name, as texts for click to parse, which it is made to do here.

    Raises `UsageError` for a name the command does not have and for a value that it does not take.
    """
    known = parameters(command)
    check_names(table, known, where)
    found: dict[str, Value] = {}
    for name, given in table.items():
        place = f"{where}: {name}"
        found[name] = _value(known[name], given, folder, place)
        try:
            known[name].type_cast_value(click.Context(command), found[name])
        except click.BadParameter as error:
            raise UsageError(f"{place}: {error.message}") from error
    return found


def words(command: click.Command, found: Mapping[str, Value]) -> list[str]:
    """The command line, after the command's name, that says the same as `values`."""
    inputs: list[str] = []
    options: list[str] = []
    for name, param in parameters(command).items():
        value = found.get(name)
        if value is None:
            continue
        texts = value if isinstance(value, list) else [value]
        if isinstance(param, click.Argument):
            inputs = [str(text) for text in texts]
        elif isinstance(value, bool):
            options += (param.opts if value else param.secondary_opts)[:1]
        else:
            options += [word for text in texts for word in (param.opts[0], str(text))]
    if any(text.startswith("-") and text != "-" for text in inputs):
        return [*options, "--", *inputs]
    return [*inputs, *options]


def _value(param: click.Parameter, given: Any, folder: Path, where: str) -> Value:
    if getattr(param, "is_flag", False):
        if not isinstance(given, bool):
            raise UsageError(f"{where} is true or false, not {given!r}")
        return given
    if param.multiple or param.nargs == -1:
        return [_text(param, item, folder, where) for item in (given if isinstance(given, list) else [given])]
    return _text(param, given, folder, where)


def _text(param: click.Parameter, given: Any, folder: Path, where: str) -> str:
    """A value as it would be typed."""
    says = set(re.findall("[A-Z]+", param.metavar or ""))
    if isinstance(given, list) and says & _LISTS:
        parts = [_text(param, item, Path(), where) for item in given]
        if any("," in part for part in parts):
            raise UsageError(f"{where}: an item of a list cannot hold a comma")
        return ",".join(parts)
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        kind = {bool: "true or false", list: "a list", dict: "a table"}.get(type(given), "a date or a time")
        raise UsageError(f"{where} is text or a number, not {kind}")
    text = str(given)
    return _placed(text, folder, only_if_there=len(says) > 1) if says & _PLACES else text


def _placed(text: str, folder: Path, *, only_if_there: bool) -> str:
    """A path of the file, seen from here. What may be a list instead of a file is one only if the file is there."""
    if text in ("", "-") or "://" in text or folder == Path():
        return text
    path = folder / text
    return text if only_if_there and not path.is_file() else str(path)


def _read(ctx: click.Context, param: click.Parameter, file: str | None) -> None:
    """Put the options of the file behind those of the command line."""
    if file is None:
        return
    document = load(file)
    if tables := [name for name in RUNS if name in document]:
        raise UsageError(f"{file} has [[{tables[0]}]] tables: `streamloss batch` runs them")
    found = values(ctx.command, settings(document, file), Path(file).parent, file)
    known = parameters(ctx.command)
    ctx.default_map = {str(known[name].name): value for name, value in found.items()}


option = shared.options(
    "Configuration",
    shared.option(
        "--config",
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_read,
        help='Options from a TOML file, where the command line has none: unit = "bit".',
    ),
)


class Command(shared.Command):
    """A command with `--config`, whose command line wins: a prediction that is given there replaces the file's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        typed = {name: v for name, v in ctx.params.items() if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
        kept = layered(ctx.params, typed)
        ctx.params.update({name: None for name in ctx.params if name not in kept})
        return rest
