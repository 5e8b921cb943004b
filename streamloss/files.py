"""Files that are whole or not there: written beside their place, then renamed onto it.

A run may take hours, so `check_target` finds the reasons why a file could not be written before the run begins.
"""

from __future__ import annotations

import contextlib
import fcntl
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
def replacing(path: str | Path, *, alone: bool = False, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` at the end; after an exception `path` is as it was before.

    A link is followed; a pipe or device is written to and never replaced. Raises OSError.

    alone: nobody else writes there at this time (see `Lock`); what a process that was killed left behind is then written over.
    durable: the file outlives a power cut. If not, what is there afterwards may be cut off.
    """
    if _is_special(Path(path)):
        with Path(path).open("wb") as file:
            yield file
        return
    target = resolved(path)
    temporary = target.with_name(f".{target.name}.tmp" if alone else f".streamloss-{secrets.token_hex(6)}.tmp")
    # os.open rather than tempfile, so that the umask decides who may read the file, as with any other.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if alone else os.O_EXCL), 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if target.exists():
                os.fchmod(descriptor, target.stat().st_mode & 0o7777)
            yield file
            file.flush()
            if durable:
                os.fsync(descriptor)
        temporary.replace(target)
        if durable:
            _sync(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync(folder: Path) -> None:
    """Has the new name of a file outlive a power cut, where the system can say so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Lock:
    """A path that one process at a time may have; it is free again when that process ends, however it ends.

    What is locked is the file `.NAME.lock` beside it, for the path itself is replaced now and then.
    """

    def __init__(self, path: str | Path) -> None:
        """Takes it. Raises `StreamlossError` when another process has it, or when there can be no such file."""
        target = resolved(path)
        self._file = target.with_name(f".{target.name}.lock")
        self._descriptor = -1
        try:
            while not self._taken():
                pass
        except BlockingIOError:
            raise StreamlossError(f"{path} is in use{_whose(self._file)}: two runs cannot write to one file") from None
        except OSError as error:
            raise unwritable(path, error) from error

    def _taken(self) -> bool:
        """Whether the file that was locked is still the one of that name: whoever had it before may just have removed it."""
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                same = os.path.samestat(os.fstat(descriptor), self._file.stat())
            except FileNotFoundError:
                same = False
            if same:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
                self._descriptor, descriptor = descriptor, -1
            return same
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def release(self) -> None:
        """Gives it back."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self._file.unlink()
            os.close(self._descriptor)
            self._descriptor = -1


def _whose(lock: Path) -> str:
    try:
        return f" by another run (process {int(lock.read_text())})"
    except (OSError, ValueError):
        return " by another run"


def unwritable(path: str | Path, error: OSError) -> StreamlossError:
    """The one line for a file that the system does not take."""
    return StreamlossError(f"cannot write {path}: {error.strerror or error}")


def check_target(path: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Raise `UsageError` when `path` cannot be a file to write, or is one of the `inputs`."""
    target = Path(path)
    folder = resolved(path).parent
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
    there = next((place for place in (folder, *resolved(path).parents) if place.exists()), folder)
    if not there.is_dir():
        raise UsageError(f"cannot write into {path}: {there} is no folder")
    if not os.access(there, os.W_OK):
        raise UsageError(f"cannot write into {path}: no permission to write in {there}")


def resolved(path: str | Path) -> Path:
    """The place that a path leads to. Raises `UsageError` where it can lead nowhere: links in a circle, a name too long."""
    place = Path(os.path.realpath(path))
    try:
        if place.is_symlink():  # what is left of a circle
            raise UsageError(f"cannot write {path}: too many levels of symbolic links")
        place.exists()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    return place


def _is_special(path: Path) -> bool:
    """Whether the path is a pipe or a device, which must not be replaced by a file."""
    return path.exists() and not path.is_file()
