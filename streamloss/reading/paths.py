"""Paths, folders and globs become files, and a file has the size and time it was planned with.

A local path stays as it was written, `file://` before it or not; folders are read recursively for `*.parquet` and `*.pq`; names
that start with `_` or `.` are skipped there. Other addresses (`s3://`, `gs://`, …) are `storage`'s.
"""

from __future__ import annotations

import difflib
import fnmatch
import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from urllib.parse import unquote

import pyarrow as pa

from streamloss.errors import DataError, Place

ENDINGS = (".parquet", ".pq")
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://([^/?]*)([^?]*)")


@dataclass(frozen=True)
class Stamp:
    """What must not change while a file is read; `etag` is what an object store says of the content, None elsewhere."""

    size: int
    mtime_ns: int | None
    etag: str | None = None


def is_uri(path: str) -> bool:
    """Whether the path is the address of something on one of Arrow's filesystems."""
    return ADDRESS.match(path) is not None


def local(path: str) -> str | None:
    """Where a file is on this machine; None for an address elsewhere."""
    address = ADDRESS.match(path) if "://" in path else None  # of ten thousand paths none need be matched
    if address is None:
        return path
    return unquote(address[3]) if address[1] == "file" and address[2] in ("", "localhost") else None


def partitions(path: str) -> dict[str, str | None]:
    """The hive partition columns that the folders of a path name: {'year': '2026'} of 'in/year=2026/0.parquet'."""
    found: dict[str, str | None] = {}
    for folder in path.split("?")[0].split("/")[:-1]:
        name, mark, value = folder.partition("=")
        if name and mark:
            found[unquote(name)] = None if value == HIVE_NULL else unquote(value)
    return found


def told(path: str | None, name: str, kind: str) -> str | int | None:
    """What a path tells of a column: itself ('file'), or the value of a hive partition, as an integer if it is a 'number'."""
    value = path if kind == "file" else partitions(path or "").get(name)
    return value if value is None else int(value) if kind == "number" else shown(value)


def shown(path: str) -> str:
    """A path as text that can be written: bytes of a name that are no UTF-8 become escapes."""
    return path.encode("utf-8", "backslashreplace").decode()


def identity(path: str, stamp: Stamp) -> str:
    """The whole path, size and time of modification: two shards of one name on two machines are two files."""
    here = local(path)
    whole = path if here is None else os.path.realpath(here)
    etag = "" if stamp.etag is None else f", ETag {stamp.etag}"
    return f"{whole} ({stamp.size} bytes, modified {stamp.mtime_ns}{etag})"


def unreadable(path: str | None, error: BaseException, row_group: int | None = None) -> DataError:
    """The one line for whatever Arrow or the system raised; what Arrow makes of an interrupt is one again."""
    if isinstance(error, pa.ArrowCancelled):
        raise KeyboardInterrupt from error
    place = Place(path, row_group)
    if isinstance(error, FileNotFoundError):
        return DataError("no such file", place=place)
    if isinstance(error, PermissionError):
        return DataError("permission denied", place=place)
    if isinstance(error, MemoryError):
        return DataError("a value or page of it is too large for the memory there is; is the file damaged?", place=place)
    text = "; ".join((first_line(error), *getattr(error, "__notes__", ())))
    return DataError(f"cannot be read: {text}", place=place)


def first_line(error: BaseException) -> str:
    """The error's own words, on one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def local_files(path: str) -> list[str]:
    """The files that a local path, folder or pattern stands for."""
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if glob.has_magic(path):
            return _matches(path)
        raise DataError(f"no such file{_nearest(Path(path))}", place=Place(path)) from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if S_ISDIR(mode):
        return _folder(path)
    if not S_ISREG(mode):
        raise DataError("not a regular file; Parquet needs one, and a stream goes in as '-'", place=Place(path))
    return [path]


def _matches(pattern: str) -> list[str]:
    files: list[str] = []
    found = _under_any(pattern) if "**" in pattern else glob.glob(pattern)  # noqa: PTH207 — paths stay as they were written
    for match in found:
        if Path(match).is_dir():
            files += _folder(match, must=False)
        elif not Path(match).name.startswith("_") or Path(pattern).name.startswith("_"):
            files.append(match)
    if not files:
        raise DataError("no file matches", place=Place(pattern))
    return files


def _nearest(path: Path) -> str:
    try:
        names = [file.name for file in path.parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def _folder(folder: str, must: bool = True) -> list[str]:
    files: list[str] = []

    def refuse(error: OSError) -> None:
        raise unreadable(error.filename or folder, error) from error

    seen: set[str] = set()
    for root, folders, names in walk(folder, refuse):
        place = os.path.realpath(root)
        if place in seen:  # by another link, and so are the files
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if visible(name))
        files += [os.path.join(root, name) for name in names if visible(name) and name.endswith(ENDINGS)]  # noqa: PTH118
    if must and not files:
        raise DataError(f"no {' or '.join('*' + end for end in ENDINGS)} files in this folder", place=Place(folder))
    return files


def walk(folder: str, refuse: Callable[[OSError], None] | None = None) -> Iterator[tuple[str, list[str], list[str]]]:
    """What os.walk gives, following links, but for folders that are above themselves."""
    above: dict[str, frozenset[str]] = {}
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        place, line = os.path.realpath(root), above.get(os.path.dirname(root), frozenset())  # noqa: PTH120
        if place in line:
            folders.clear()
        else:
            above[root] = line | {place}
            yield root, folders, names


def _under_any(pattern: str) -> Iterator[str]:
    """The files that a pattern with `**`, any folders, stands for; `glob` would follow links that go round in circles."""
    parts = pattern.split("/")
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    above, wanted = parts[:first], [part for part in parts[first:] if part]
    top = "/".join(above) or ("/" if above else ".")
    for root, _, names in walk(top):
        below = [part for part in os.path.relpath(root, top).split("/") if part != "."]
        yield from ("/".join([*above, *below, name]) for name in names if _fits([*below, name], wanted))


def _fits(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the parts of a path are those of a pattern, of which those with a dot are matched by a dot alone."""
    if not wanted or not names:
        return not names and all(part == "**" for part in wanted)
    name, part = names[0], wanted[0]
    if part == "**":
        return _fits(names, wanted[1:]) or (not name.startswith(".") and _fits(names[1:], wanted))
    dotted = name.startswith(".") and not part.startswith(".")
    return not dotted and fnmatch.fnmatchcase(name, part) and _fits(names[1:], wanted[1:])


def visible(name: str) -> bool:
    """Whether a file or folder of this name is looked at in a folder."""
    return not name.startswith(("_", "."))
