"""The rows that are done, and what a run that goes on reads of a file: what is missing, however either was cut."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamloss.extents import Extents
from streamloss.options import Options
from streamloss.reading.source import open_input, read_part

RUNS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda run: (run[0], run[0] + run[1])), max_size=12)


@given(RUNS, st.integers(0, 90), st.integers(0, 90))
def test_rows_are_there_once_added_and_missing_else(runs, begin, end):
    extents, rows = Extents(), set()
    for a, b in runs:
        extents.add(a, b)
        rows.update(range(a, b))
    assert {row for a, b in extents for row in range(a, b)} == rows
    assert extents.rows == len(rows)
    assert list(Extents(list(extents))) == list(extents)  # canonical: ascending, none touches the next
    missing = list(extents.missing(begin, end))
    assert [row for a, b in missing for row in range(a, b)] == [row for row in range(begin, end) if row not in rows]
    assert all(a < b for a, b in missing)


@pytest.mark.parametrize("runs", [[(3, 3)], [(5, 2)], [(0, 4), (4, 6)], [(0, 4), (2, 6)], [(-1, 3)], [(0, 2.5)], [(True, 3)]])
def test_what_is_no_runs_of_rows_is_refused(runs):
    with pytest.raises(ValueError):
        Extents(runs)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("extents") / "rows.parquet"
    writer = pq.ParquetWriter(path, pa.schema([("prob", pa.float64()), ("label", pa.int64())]))
    at = 0
    for rows in (7, 0, 5, 11, 1, 0, 9):
        numbers = np.arange(at, at + rows)
        writer.write_table(pa.table({"prob": numbers / 100, "label": numbers % 2}))
        at += rows
    writer.close()
    return open_input(str(path), Options(), batch_rows=4)


@settings(deadline=None)
@given(st.data())
def test_what_is_left_is_read_once(source, data):
    """Rows are done from the beginning of parts on, in parts as small or as large as another run made them."""
    done = Extents()
    cut = data.draw(st.sampled_from([1, 100, 200, 1 << 30]))
    for part in source.parts(cut):
        done.add(part.first_row, part.first_row + data.draw(st.integers(0, part.rows)))
    read = []
    for part in source.parts(data.draw(st.sampled_from([1, 100, 200, 1 << 30])), done=[done]):
        rows = [batch.first_row + i for batch in read_part(part, source.plan) for i in range(len(batch))]
        values = np.concatenate([batch.prediction for batch in read_part(part, source.plan)])
        assert rows == list(range(part.first_row, part.first_row + part.rows))
        assert (values * 100).round().astype(int).tolist() == rows
        read += rows
    assert read == [row for a, b in done.missing(0, source.rows) for row in range(a, b)]
