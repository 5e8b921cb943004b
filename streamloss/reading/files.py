"""Files, wherever they are: what paths and addresses stand for, what a file is at the moment, and its bytes.

A local file's bytes come by `preadv`, not through a memory map: a file that is truncated while a map of it is read ends the
whole process (SIGBUS), here it is a short read. Nothing is lost by it: values that are stored plain and uncompressed are read
where they are to stand at 8.5 to 9.5 GB/s, a map copied to the same place gave 8.1 (page cache, one thread, Xeon).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from streamloss.errors import DataError, Place, UsageError
from streamloss.memory import Claim, Exceeded, told
from streamloss.reading import remote, storage
from streamloss.reading.footer import Declined, File, Piece, tail_length
from streamloss.reading.paths import Stamp, is_uri, local, local_files, unreadable
from streamloss.reading.window import Bytes


def expand(paths: Sequence[str]) -> list[str]:
    """All files that the paths, folders, globs and URIs stand for: sorted, each once."""
    files: dict[str, str] = {}
    for path in paths:
        if not path:
            raise UsageError("an empty path")
        for file in storage.listed(path) if is_uri(path) else local_files(path):
            here = local(file)
            files.setdefault(file if here is None else os.path.realpath(here), file)
    return sorted(files.values())


def open_file(path: str, expected: Stamp | None = None, *, anew: bool = False) -> File:
    """A file's bytes; `expected` is what it was planned with. Raises `DataError` when it is not, or cannot be opened.

    anew: what is remembered of a file that is far away will not do.
    """
    here = local(path)
    return remote.RemoteFile(path, expected, anew) if here is None else LocalFile(path, here, expected)


_PARSED = 10  # times as much as its bytes a footer takes when pyarrow has read it, about


class LocalFile:
    """The bytes of a file of this machine."""

    reach = 1 << 62

    def __init__(self, path: str, here: str, expected: Stamp | None = None) -> None:
        """Opens it."""
        self._path, self._here, self._expected = path, here, expected
        self.check()
        try:
            self._fd = os.open(here, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except (OSError, ValueError) as error:
            raise unreadable(path, error) from error
        self.stamp = _stamp(os.fstat(self._fd))
        self.size = self.stamp.size

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def check(self) -> None:
        """Raises `DataError` when the file is not what was expected."""
        if self._expected is None:
            return
        try:
            now = _stamp(Path(self._here).stat())
        except (OSError, ValueError) as error:
            raise unreadable(self._path, error) from error
        if now != self._expected:
            raise DataError("the file changed while it was read", place=Place(self._path))

    def native(self) -> Any:
        """A handle of its own that pyarrow reads through."""
        return pa.OSFile(os.fsencode(self._here), "rb")  # pyarrow takes only text that is UTF-8

    def expect(self, pieces: Callable[[], Sequence[Piece]]) -> None:
        """Nothing: the system reads ahead."""

    def tail(self) -> Bytes:
        """The end of the file with its whole footer, as far as there is one."""
        tail = self._read(min(self.size, remote.TAIL))
        wanted = tail_length(tail)
        if not len(tail) < wanted <= self.size:
            return tail
        try:
            Claim("footers").to(_PARSED * wanted, lambda: f"a footer of {told(wanted)} does not fit")
        except Exceeded as error:
            raise DataError(str(error), place=Place(self._path)) from error
        return self._read(wanted)

    def _read(self, size: int) -> Bytes:
        out = np.empty(size, dtype=np.uint8)
        self.fill(out, self.size - size)
        return out

    def fill(self, out: Any, at: int) -> None:
        """Fills `out`, an array of bytes, from the file. Raises `Declined` when the file ends before."""
        done = 0
        while done < len(out):
            got = os.preadv(self._fd, [out[done:] if done else out], at + done)
            if not got:
                raise Declined("the file ends before its pages do")
            done += got


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_size, found.st_mtime_ns)
