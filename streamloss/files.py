"""Files that are whole or not there: written beside their place, then renamed onto it.

A run may take hours, so `check_target` finds the reasons why a file could not be written before the run begins.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from streamloss.errors import StreamlossError, UsageError


def write_atomically(path: str | Path, data: bytes) -> None:
    """Put `data` at `path`, or leave what was there untouched and raise `StreamlossError` naming the path.

    A link is followed; a pipe or device (`/dev/stdout`) is written to and never replaced.
    """
    try:
        with replacing(path) as file:
            file.write(data)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise unwritable(path, error) from error


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` at the end; after an exception `path` is as it was before.

    A link is followed; a pipe or device is written to and never replaced. Raises OSError.
    """
    if _is_special(Path(path)):
        with Path(path).open("wb") as file:
            yield file
        return
    target = Path(path).resolve()
    temporary = target.with_name(f".streamloss-{secrets.token_hex(6)}.tmp")
    # os.open rather than tempfile, so that the umask decides who may read the file, as with any other.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if target.exists():
                os.fchmod(descriptor, target.stat().st_mode & 0o7777)
            yield file
            file.flush()
            os.fsync(descriptor)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def unwritable(path: str | Path, error: OSError) -> StreamlossError:
    """The one line for a file that the system does not take."""
    return StreamlossError(f"cannot write {path}: {error.strerror or error}")


def check_target(path: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Raise `UsageError` when `path` cannot be a file to write, or is one of the `inputs`."""
    target = Path(path)
    folder = target.resolve().parent
    if target.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder")
    if _is_special(target):
        return
    if not folder.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write {path}: no permission to write in {folder}")
    for given in inputs:
        with contextlib.suppress(OSError):
            if target.samefile(given):
                raise UsageError(f"cannot write {path}: it is an input of this run")


def check_folder(path: str | Path) -> None:
    """Raise `UsageError` when `path` cannot be a folder to write files into; it need not be there."""
    folder = Path(path)
    there = next((place for place in (folder, *folder.resolve().parents) if place.exists()), folder)
    if not there.is_dir():
        raise UsageError(f"cannot write into {path}: {there} is no folder")
    if not os.access(there, os.W_OK):
        raise UsageError(f"cannot write into {path}: no permission to write in {there}")


def _is_special(path: Path) -> bool:
    """Whether the path is a pipe or a device, which must not be replaced by a file."""
    return path.exists() and not path.is_file()
