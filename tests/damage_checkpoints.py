"""Small checkpoints of runs that were stopped, ways to damage them, how the run that is to go on from one ends.

What is damaged is much of it what only a checkpoint has: which rows of which inputs are in it.
"""

from __future__ import annotations

import os

import damage_states
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from damage_states import bomb, edit_array, edit_header, opened, repaired, sealed, spoil

import streamloss
from streamloss.errors import DataError, StreamlossError
from streamloss.extents import Extents
from streamloss.options import Options
from streamloss.reading.source import open_input, read_part
from streamloss.running.checkpoint import Checkpoint
from streamloss.running.measure import Accumulator
from streamloss.state import State

ROWS, GROUP, FILES = 60, 20, 2
GIVEN = ({}, {"by": ["g"]}, {"weight": "w", "by": ["g,h"]}, {"cluster": "h", "metrics": "cross_entropy,accuracy"})


def _write(folder):
    """The files of the run, the same to the nanosecond wherever they are made."""
    folder.mkdir(exist_ok=True)
    r = np.random.default_rng(7)
    for number in range(FILES):
        columns = {"prob": r.random(ROWS), "label": r.integers(0, 2, ROWS), "w": r.integers(0, 3, ROWS) / 2}
        columns |= {"g": r.integers(0, 3, ROWS), "h": r.integers(0, 9, ROWS)}
        path = folder / f"{number}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=GROUP)
        os.utime(path, ns=(10**18, 10**18))


def seeds(folder):
    """Checkpoints of runs that have read some row groups, and part of one."""
    rows = folder / "rows"
    _write(rows)
    found = []
    for number, given in enumerate(GIVEN):
        options = Options.of(**given)
        source = open_input(str(rows), options)
        whole, done = Accumulator(source.task, options, 1), [Extents() for _ in source.files]
        for part in source.parts(1)[: 1 + number]:
            for batch in read_part(part, source.plan):
                taken = batch.rows(0, 13 if number % 2 else len(batch))
                whole.add(taken)
                done[source.files.index(next(e for e in source.files if e["path"] == part.path))].add(
                    part.first_row, part.first_row + len(taken)
                )
        state = whole.state()
        state.columns = dict(source.roles)
        path = folder / "seed"
        path.unlink(missing_ok=True)
        checkpoint = Checkpoint(path, source, options)
        checkpoint.write(state, done)
        checkpoint.release()
        found.append((path.read_bytes(), {"rows": rows, "given": given}))
    return found


def _runs(rng):
    """Runs of rows, most of them none that can be."""
    return rng.choice(
        [
            lambda: [[0, rng.choice([1, GROUP, ROWS, ROWS + 1, 2**40, 2**70])]],
            lambda: [[rng.randint(-1, ROWS), rng.randint(-1, ROWS)] for _ in range(rng.randint(0, 3))],
            lambda: [[i, i + 1] for i in range(0, rng.choice([10, 100_000]), 2)],
            lambda: rng.choice(
                [None, 0, "all", [[]], [[0]], [0, 1], [[0, 1, 2]], [["0", "1"]], [[0.0, 5.0]], {"0": 5}, [None]]
            ),
        ]
    )()


def damaged(rng, files):
    """One of the checkpoints with something wrong."""
    data, options = files[rng.randrange(len(files))]
    header, packed = opened(data)
    how = rng.random()
    if how < 0.1:
        data = spoil(rng, data)
    elif how < 0.15:
        data = sealed(header, bomb(rng, packed))
    elif how < 0.35:
        edit_header(rng, header, opened(files[rng.randrange(len(files))][0])[0])
        data = sealed(repaired(header, packed), packed)
    elif how < 0.5:
        state = edit_array(rng, State.from_bytes(data))
        state.made = header["made"]
        data = state.to_bytes()
    else:
        inputs = header["inputs"]
        place = rng.randrange(len(inputs))
        kind = rng.random()
        if kind < 0.6:
            inputs[place]["done"] = _runs(rng)
        elif kind < 0.7:
            inputs[place].pop("done", None)
        elif kind < 0.8:
            inputs[place][rng.choice(["path", "identity", "footer", "rows", "bytes"])] = damage_states.hostile(rng)
        elif kind < 0.9:
            inputs[place] = inputs[place - 1]
        else:
            header["inputs"] = rng.choice([[], inputs[:1], inputs * 2, inputs[::-1]])
        data = sealed(header, packed)
    return data, options


def words(path, options):
    """The command line that goes on from it."""
    given = [f"--{name}={each}" for name, value in options["given"].items() for each in (value if name == "by" else [value])]
    return ["evaluate", str(options["rows"]), "--checkpoint", str(path), "--format", "json", *given], None


def _go_on(path, options):
    """'read' and the digest, of as many rows as there are, or the error's line; what is refused stays as it is."""
    before = path.read_bytes()
    try:
        report = streamloss.evaluate(str(options["rows"]), checkpoint=path, **options["given"])
    except StreamlossError as error:
        line = str(error)
        assert "\n" not in line and line.startswith(f"{path}")
        assert isinstance(error, DataError) and path.read_bytes() == before
        return line
    assert report.rows["read"] == FILES * ROWS
    assert State.from_bytes(path.read_bytes()).digest == report.digest
    assert not path.with_name(f".{path.name}.lock").exists()
    path.write_bytes(before)  # for whoever comes next
    return f"read {report.digest}"


def _report(path, options):
    """The report of what was counted."""
    try:
        return f"read {streamloss.merge([path]).digest}"
    except StreamlossError as error:
        line = str(error)
        assert "\n" not in line
        return line


WAYS = {"go on": _go_on, "report": _report}


def judge(ends):
    """What no report can be made of no run goes on from."""
    go_on, report = (ends[way] for way in WAYS)
    no_rows = "no rows" in report or "zero" in report
    return (
        ["went on from what is no state"] if go_on.startswith("read") and not report.startswith("read") and not no_rows else []
    )
