"""The exact state of a comparison: what two models and the differences between them add up to, of all rows and by slice.

Three sets of groups for all rows and for each --by (see `slices`): the new model's, the old model's, and those between them.
They merge by adding like a `State`, in any order to the same bits, and the SHA-256 of their canonical form is the digest.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from streamloss import slicing
from streamloss.errors import StreamlossError
from streamloss.options import DISPLAY, Options, Task
from streamloss.slices import Settled


@dataclass(frozen=True)
class Sides:
    """The groups of one --by, or of all rows."""

    new: Settled
    old: Settled
    between: Settled

    def all(self) -> tuple[Settled, Settled, Settled]:
        """The three, in the order in which they are hashed."""
        return self.new, self.old, self.between


@dataclass
class Comparison:
    """What has been added up of two models. `columns` and `inputs` say of what; they are no part of the digest."""

    task: Task
    old_task: Task
    options: Options
    old_options: Options
    groupings: list[Sides]  # all rows, then one for each of `Options.groupings`
    columns: dict[str, str] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def whole(self) -> Sides:
        """The groups of all rows: one of each."""
        return self.groupings[0]

    @property
    def definition(self) -> dict[str, Any]:
        """What the numbers mean. Part of the digest."""
        options = [{k: v for k, v in o.definition.items() if k not in DISPLAY} for o in (self.options, self.old_options)]
        return {"tasks": [asdict(self.task), asdict(self.old_task)], "options": options}

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes, in hexadecimal."""
        headers = [settled.header() for sides in self.groupings for settled in sides.all()]
        text = json.dumps([self.definition, headers], sort_keys=True, separators=(",", ":"))
        hashed = hashlib.sha256(text.encode())
        for sides in self.groupings:
            for settled in sides.all():
                for name in sorted(settled.arrays):
                    array = settled.arrays[name]
                    hashed.update(f"\n{name} {array.shape}\n".encode())
                    hashed.update(np.ascontiguousarray(array, dtype="<i8").data)
        return hashed.hexdigest()

    def merged(self, other: Comparison) -> Comparison:
        """The comparison of the rows of both; neither changes. Raises `StreamlossError` when the definitions differ."""
        if self.definition != other.definition:
            raise StreamlossError("comparisons of different tasks or options do not merge")
        groupings = [
            Sides(*(slicing.merged(one, two) for one, two in zip(mine.all(), theirs.all(), strict=True)))
            for mine, theirs in zip(self.groupings, other.groupings, strict=True)
        ]
        inputs = self.inputs + other.inputs
        return Comparison(self.task, self.old_task, self.options, self.old_options, groupings, self.columns, inputs)
