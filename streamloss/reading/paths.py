"""Paths, folders, globs and URIs become a sorted list of files, and a file has the size and time it was planned with.

A local path stays as it was written; a URI (`s3://`, `gs://`, `file://`, …) goes through Arrow's filesystems. Folders
are read recursively for `*.parquet` and `*.pq`; names that start with `_` or `.` are skipped there.
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
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.fs as pafs

from streamloss.errors import DataError, Place, UsageError

ENDINGS = (".parquet", ".pq")
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class Stamp:
    """What must not change while a file is read; `etag` is what an object store says of the content, None elsewhere."""

    size: int
    mtime_ns: int | None
    etag: str | None = None


def is_uri(path: str) -> bool:
    """Whether the path is opened through Arrow's filesystems."""
    return _URI.match(path) is not None


def expand(paths: Sequence[str]) -> list[str]:
    """All files that the paths, folders, globs and URIs stand for: sorted, each once."""
    files: dict[str, str] = {}
    for path in paths:
        if not path:
            raise UsageError("an empty path")
        for file in _remote(path) if is_uri(path) else _local(path):
            files.setdefault(file if is_uri(file) else os.path.realpath(file), file)
    return sorted(files.values())


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


def stamp(path: str) -> Stamp:
    """Size and time of modification; `DataError` when there is no such file."""
    if is_uri(path):
        filesystem, inner = _filesystem(path)
        try:
            info = filesystem.get_file_info(inner)
            if info.type != pafs.FileType.File:
                raise DataError("no such file", place=Place(path))
            with filesystem.open_input_file(inner) as handle:
                etag = (handle.metadata() or {}).get("ETag")
        except (pa.ArrowException, OSError) as error:
            raise unreadable(path, error) from error
        return Stamp(info.size, info.mtime_ns, None if etag is None else etag.decode())
    try:
        found = Path(path).stat()
    except OSError as error:
        raise unreadable(path, error) from error
    return Stamp(found.st_size, found.st_mtime_ns)


def identity(path: str, stamp: Stamp) -> str:
    """The whole path, size and time of modification: two shards of one name on two machines are two files."""
    whole = path if is_uri(path) else os.path.realpath(path)
    etag = "" if stamp.etag is None else f", ETag {stamp.etag}"
    return f"{whole} ({stamp.size} bytes, modified {stamp.mtime_ns}{etag})"


def open_file(path: str) -> pa.NativeFile:
    """A fresh handle of its own."""
    if is_uri(path):
        filesystem, inner = _filesystem(path)
        return filesystem.open_input_file(inner)
    return pa.OSFile(os.fsencode(path), "rb")  # pyarrow takes only text that is UTF-8


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
    text = first_line(error)
    return DataError(f"cannot be read: {text}", place=place)


def first_line(error: BaseException) -> str:
    """The error's own words, on one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _local(path: str) -> list[str]:
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
    for root, folders, names in _walk(folder, refuse):
        place = os.path.realpath(root)
        if place in seen:  # by another link, and so are the files
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if _visible(name))
        files += [os.path.join(root, name) for name in names if _visible(name) and name.endswith(ENDINGS)]  # noqa: PTH118
    if must and not files:
        raise DataError(f"no {' or '.join('*' + end for end in ENDINGS)} files in this folder", place=Place(folder))
    return files


def _walk(folder: str, refuse: Callable[[OSError], None] | None = None) -> Iterator[tuple[str, list[str], list[str]]]:
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
    for root, _, names in _walk(top):
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


def _visible(name: str) -> bool:
    return not name.startswith(("_", "."))


def _filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    try:
        filesystem, inner = pafs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"no filesystem opens this address ({first_line(error)}); "
            "known are paths and s3://, gs://, abfs://, hdfs://, file://",
            place=Place(uri),
        ) from error
    return filesystem, inner


def _remote(uri: str) -> list[str]:
    base, mark, query = uri.partition("?")
    magic = re.search(r"[*\[]", base)
    try:
        if magic:
            root = base[: base.rindex("/", 0, magic.start())]
            filesystem, inner = _filesystem(root + mark + query)
            wanted = _glob_pattern(base[len(root) + 1 :])
            found = [path for path in _under(filesystem, inner) if wanted.fullmatch(path[len(inner) :].lstrip("/"))]
            if not found:
                raise DataError("no file matches", place=Place(uri))
        else:
            root = base
            filesystem, inner = _filesystem(uri)
            info = filesystem.get_file_info(inner)
            if info.type == pafs.FileType.File:
                return [uri]
            if info.type == pafs.FileType.NotFound:
                raise DataError("no such file or folder", place=Place(uri))
            found = [
                path
                for path in _under(filesystem, inner)
                if path.endswith(ENDINGS) and all(map(_visible, path[len(inner) :].strip("/").split("/")))
            ]
            if not found:
                raise DataError("no *.parquet or *.pq files in this folder", place=Place(uri))
    except (pa.ArrowException, OSError) as error:
        raise unreadable(uri, error) from error
    return [f"{root.rstrip('/')}/{quote(path[len(inner) :].lstrip('/'), safe='/=')}{mark}{query}" for path in found]


def _under(filesystem: pafs.FileSystem, folder: str) -> Iterator[str]:
    for info in filesystem.get_file_info(pafs.FileSelector(folder, recursive=True)):
        if info.type == pafs.FileType.File:
            yield info.path


def _glob_pattern(text: str) -> re.Pattern[str]:
    """`*` within a folder, `**/` over any folders, `[abc]` one of these."""
    out = ""
    for part in re.findall(r"\*\*/|\*\*|\*|\[[^]]+\]|[^*\[]+|\[", text):
        out += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}.get(part) or (
            part.replace("[!", "[^") if part[0] == "[" and len(part) > 1 else re.escape(part)
        )
    return re.compile(out)
