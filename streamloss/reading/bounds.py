"""Pages that are too large, told by their place before memory is taken for them.

pyarrow takes what a page says of itself. So before it reads a column the headers of the column's pages are looked at: always
those of the first pages, and with a budget of memory those of all pages, whose largest has to fit. Of a file in an object store
only what was fetched anyway is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Protocol

import numpy as np

from streamloss import memory
from streamloss.errors import DataError, Place
from streamloss.memory import Claim, Exceeded, told
from streamloss.reading.chunks import Column, Corrupt
from streamloss.reading.codecs import CODECS
from streamloss.reading.footer import Chunk, Declined, File, Footer, Leaf, Piece
from streamloss.reading.specs import Spec

LEAST_WINDOW = 1 << 14
_PROBED = 32  # pages of a list column that are looked at before pyarrow is asked for its first rows
_ALL = 1 << 62


class Located(Protocol):
    """What is in a row group."""

    @property
    def row_group(self) -> int:
        """The number of the row group."""


@contextmanager
def named(path: str, column: str, at: Located) -> Iterator[None]:
    """Says where a page is corrupt, or too large."""
    try:
        yield
    except Exceeded as error:
        raise DataError(str(error), place=Place(path, at.row_group, column=column)) from error
    except Corrupt as error:
        raise DataError(str(error), place=Place(path, error.row_group, column=column)) from error


def check_first(file: File, path: str, column: str) -> None:
    """Looks at the first pages of a column, as far as they are understood here.

    Raises `DataError` where one is corrupt or does not fit.
    """
    with suppress(Declined, OSError, ValueError, MemoryError):
        footer = Footer(file)
        leaf = footer.leaf(column)
        for chunk in _chunks(footer, leaf, 0, footer.row_groups):
            looked_at = [Piece(chunk.row_group, chunk.start, min(chunk.end, chunk.start + file.reach))]
            file.expect(partial(list, looked_at))
            claim = Claim("pages")
            _hold(claim, _largest(file, path, column, footer, leaf, chunk, _PROBED), path, column, chunk)
            break


@contextmanager
def room_for_pages(file: File, path: str, columns: Sequence[str], first: int, count: int) -> Iterator[None]:
    """Claims the memory of the largest page of every column in `count` row groups from `first` on, where there is a budget.

    Raises `DataError` for the first page that does not fit, or that is corrupt.
    """
    claims = []
    if memory.limit() is not None:
        with suppress(Declined, OSError, ValueError, MemoryError):
            footer = Footer(file)
            for column in columns:
                with suppress(Declined):
                    leaf = footer.leaf(column)
                    claims.append(Claim("pages"))
                    for chunk in _chunks(footer, leaf, first, count):
                        largest = _largest(file, path, column, footer, leaf, chunk, _ALL)
                        _hold(claims[-1], max(largest, claims[-1].size), path, column, chunk)
    yield
    for claim in claims:
        claim.let_go()


def _chunks(footer: Footer, leaf: Leaf, first: int, count: int) -> Iterator[Chunk]:
    _, found = footer.chunks([leaf.index], first, count)
    return (chunk for chunk in found[leaf.index] if not isinstance(chunk, str) and chunk.rows and chunk.codec in CODECS)


def _largest(file: File, path: str, column: str, footer: Footer, leaf: Leaf, chunk: Chunk, pages: int) -> int:
    """What the largest of the first pages takes, as it is and as it becomes."""
    byte = np.dtype(np.uint8)
    spec = Spec(leaf.physical, leaf.definition, byte, None, byte, 0)
    with named(path, column, chunk):
        return Column(file, spec, [chunk], footer.end_of_data, LEAST_WINDOW).probe(pages, file.reach)


def _hold(claim: Claim, size: int, path: str, column: str, chunk: Chunk) -> None:
    with named(path, column, chunk):
        claim.to(size, lambda: f"a page that takes {told(size)} does not fit")
