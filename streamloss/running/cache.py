"""The states of parts that were measured before, in a folder: of a job that grows by a shard a day only the new one is read.

A state has the name of a hash over all that it depends on: which file (path, size, time, footer), which row groups, what the
columns are, every option that changes a number, and whose kernels made it. What was overwritten, or asked otherwise, is under
another name, so nothing is ever wrong to use, and a folder may serve any number of runs at once: a state is written beside its
place and renamed, and two that write the same one write the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streamloss.errors import DataError, StreamlossError
from streamloss.files import replacing, unwritable
from streamloss.options import Options
from streamloss.reading.source import Input, Part
from streamloss.running.checkpoint import NotKept, maker
from streamloss.state import State


class Cache:
    """The folder, for the parts of one input and for one set of options."""

    def __init__(self, folder: str | Path, source: Input, options: Options) -> None:
        """Makes the folder where it is not there. Raises `StreamlossError` when it cannot."""
        self._folder = Path(folder)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StreamlossError(f"cannot make the folder {folder}: {error.strerror or error}") from error
        plan = source.plan
        self._entries = {entry["path"]: entry for entry in source.files}
        self._options = options
        self._common = [
            "streamloss.cache/1", maker(), options.definition, asdict(plan.task), plan.columns, plan.kinds, plan.of_path,
            plan.prediction_dtype, plan.target_dtype,
        ]  # fmt: skip

    def input(self, part: Part) -> dict[str, Any]:
        """What a part's state says of where its rows are from."""
        entry = self._entries[part.path]
        whole = part.rows == entry["rows"]
        return entry if whole else entry | {"done": [[part.first_row, part.first_row + part.rows]]}

    def get(self, part: Part) -> State | None:
        """The state of a part, if it is there and whole."""
        try:
            state = State.from_bytes(self._place(part).read_bytes())
        except (OSError, DataError):
            return None
        if state.inputs != [self.input(part)]:
            return None
        state.inputs = []
        state.options = self._options  # of those, only what is shown may differ
        return state

    def put(self, part: Part, data: bytes) -> None:
        """Keeps the bytes of a part's state. `NotKept` warns where they cannot be."""
        place = self._place(part)
        try:
            place.parent.mkdir(exist_ok=True)
            with replacing(place, durable=False) as file:
                file.write(data)
        except OSError as error:
            warnings.warn(f"{unwritable(self._folder, error)}; the run goes on", NotKept, stacklevel=2)

    def _place(self, part: Part) -> Path:
        entry = self._entries[part.path]
        own = [entry["identity"], entry["footer"], part.row_groups[0], part.row_groups[-1], part.first_row, part.rows]
        name = hashlib.sha256(json.dumps([*self._common, *own], sort_keys=True).encode()).hexdigest()
        return self._folder / name[:2] / f"{name}.state"
