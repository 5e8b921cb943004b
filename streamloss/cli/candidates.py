"""What may stand where the cursor is when TAB is pressed: the metavar of an option says what its value is.

Columns come from the files that stand before them on the line. Whatever goes wrong is silent: there is nothing to offer then.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

VARIABLE = "_STREAMLOSS_COMPLETE"  # as click calls it: what the shell's script asks in
_FILES = {"FILE", "PATH", "STATE"}
_KEYS = {"LIST": "metrics", "KEY": "worst_by"}  # metavars of more meanings than one, and the option that takes quantities


def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    """Files and folders, which the shell finds itself."""
    return _place("file", incomplete)


def values(option: click.Option, ctx: click.Context, incomplete: str) -> list[CompletionItem[Any]] | None:
    """The values of an option; None when its type knows better."""
    metavar = option.metavar or ""
    says = set(re.findall("[A-Z]+", metavar))
    if says & _FILES:
        return _place("file", incomplete)
    if "DIR" in says:
        return _place("dir", incomplete)
    try:
        if "COL" in says:
            return _matching(_columns(option, ctx), incomplete, several="," in metavar)
        if any(option.name == _KEYS.get(word) for word in says):
            return _matching(_quantities(), incomplete, several="LIST" in says)
    except Exception:  # a line on the screen would be in the way
        return []
    return None


def _place(kind: str, incomplete: str) -> list[CompletionItem[Any]]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type=kind)]


def _columns(option: click.Option, ctx: click.Context) -> dict[str, str]:
    """The columns of the old model's files for an option of the old model, of the others for all else."""
    from streamloss.reading.glance import columns

    old = ctx.params.get("baseline") if (option.name or "").startswith("baseline_") else None
    # An option without its value ends the parsing: the paths before it are left over.
    found = columns(old or [*(ctx.params.get("paths") or ()), *ctx.args])
    return found | ({"file": "path of the file"} if option.name == "by" else {})


def _quantities() -> dict[str, str]:
    from streamloss.quantities import QUANTITIES

    return {key: quantity.title for key, quantity in QUANTITIES.items()}


def _matching(names: Mapping[str, str], incomplete: str, *, several: bool) -> list[CompletionItem[Any]]:
    """The names, each after what it is, that go on from what was typed; with `several`, after its last comma."""
    from click.shell_completion import CompletionItem

    before, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
    taken = {*before.split(",")} if comma else set()
    fit = [name for name in names if name.startswith(last) and name.isprintable() and name not in taken]
    # Bash puts a word on the line as it is; the others quote it.
    quoted = shlex.quote if os.environ.get(VARIABLE, "").startswith("bash") else str
    return [CompletionItem(quoted(before + comma + name), help=names[name]) for name in fit if not (several and "," in name)]
