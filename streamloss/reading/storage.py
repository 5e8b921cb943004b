"""Object stores, and whatever other filesystems Arrow opens: found by their addresses, listed, looked at and opened.

Every request goes through `retries`; what cannot pass (no such key, no such bucket, access denied) is told at once. Arrow's own
tries are set to one, or they would multiply with ours. For `s3://` the endpoint, the region and the credentials come from the
variables that other tools read (`AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_DEFAULT_REGION`, `AWS_PROFILE`;
keys are left to Arrow's SDK), and options behind a `?` in the address go before them.
"""

from __future__ import annotations

import configparser
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote

import pyarrow as pa
import pyarrow.fs as pafs

from streamloss.errors import DataError, Place
from streamloss.reading.paths import ADDRESS, ENDINGS, Stamp, first_line, unreadable, visible, walk
from streamloss.reading.retries import again

T = TypeVar("T")

CONNECT_SECONDS, REQUEST_SECONDS = 3.0, 5.0  # without a connection, or a byte of an answer: then the try has failed
_SETTINGS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_CONFIG_FILE")
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_TEXTS, _FLAGS = ("region", "scheme", "endpoint_override", "tls_ca_file_path"), ("anonymous", "force_virtual_addressing")
# What does not pass, in the words of Arrow and the SDK: HTTP 3xx and 4xx but for time-outs and throttling, names of errors, and
# numbers of curl's for an address or a certificate that is wrong.
_LASTING = re.compile(
    r"HTTP status [34](?!08|29)\d\d|NO_SUCH|NOT_FOUND|ACCESS_DENIED|INVALID|SIGNATURE|CLIENT_TOKEN|AUTHENTICATION|CREDENTIALS|"
    r"UNRECOGNIZED_CLIENT|TIME_TOO_SKEWED|EXPIRED|OPT_IN_REQUIRED|VALIDATION|MALFORMED|CLIENT_SIGNING|"
    r"curlCode: (?:1|3|58|60|77),"
)
_DENIED = re.compile(r"ACCESS_DENIED|SIGNATURE|ACCESS_KEY|TOKEN|CREDENTIALS|UNRECOGNIZED_CLIENT|HTTP status 40[13]\b")
_lock = threading.Lock()
_opened: dict[tuple[str | None, ...], tuple[pafs.FileSystem, str]] = {}


@dataclass(frozen=True)
class Found:
    """A file that was looked at: the handle that its bytes are read through, and what it was at that moment."""

    handle: pa.NativeFile
    stamp: Stamp


def find(path: str) -> Found:
    """Looks at a file; one request where the store has ETags. Raises `DataError` when there is none."""
    filesystem, inner = _filesystem(path)

    def ask() -> Found:
        handle = filesystem.open_input_file(inner)
        told = {name.lower(): value.decode() for name, value in _metadata(handle).items()}
        if "etag" in told:
            return Found(handle, Stamp(handle.size(), _time(told.get("last-modified")), told["etag"]))
        return Found(handle, Stamp(handle.size(), filesystem.get_file_info(inner).mtime_ns))

    return tried(path, ask)


def tried(path: str, request: Callable[[], T], over: Callable[[], bool] = bool) -> T:
    """request(), tried again where that helps, until it is over. Raises `DataError` with the path when it fails for good."""
    try:
        return again(request, _passing, over)
    except (pa.ArrowException, OSError) as error:
        raise _failed(path, error) from error


def listed(uri: str) -> list[str]:
    """The addresses of all files that a file, a folder or a pattern of a filesystem stands for."""
    base, mark, query = uri.partition("?")
    magic = re.search(r"[*\[]", base)
    if magic:
        root = base[: base.rindex("/", 0, magic.start())]
        filesystem, inner = _filesystem(root + mark + query)
        wanted = _glob_pattern(base[len(root) + 1 :])
        found = [path for path in _under(filesystem, inner, uri) if wanted.fullmatch(path[len(inner) :].lstrip("/"))]
        if not found:
            raise DataError("no file matches", place=Place(uri))
    else:
        root = base
        filesystem, inner = _filesystem(uri)
        kind = tried(uri, lambda: filesystem.get_file_info(inner).type)
        if kind == pafs.FileType.File:
            return [uri]
        if kind == pafs.FileType.NotFound:
            raise DataError(_missing(filesystem, inner), place=Place(uri))
        found = [
            path
            for path in _under(filesystem, inner, uri)
            if path.endswith(ENDINGS) and all(map(visible, path[len(inner) :].strip("/").split("/")))
        ]
        if not found:
            raise DataError("no *.parquet or *.pq files in this folder", place=Place(uri))
    return [f"{root.rstrip('/')}/{quote(path[len(inner) :].lstrip('/'), safe='/=')}{mark}{query}" for path in found]


# ---- requests


def _passing(error: Exception) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError):
        return False
    return isinstance(error, OSError) and not _LASTING.search(str(error))


def _failed(path: str, error: Exception) -> DataError:
    text = first_line(error)
    if isinstance(error, OSError) and _DENIED.search(text):
        hint = f"are {', '.join(_KEYS[:2])} (or AWS_PROFILE) right?" if path.startswith("s3:") else "are the credentials right?"
        return DataError(f"access denied ({text}); {hint}", place=Place(path))
    if "NO_SUCH_BUCKET" in text:
        return DataError(f"no such bucket ({text})", place=Place(path))
    return unreadable(path, error)


def _missing(filesystem: pafs.FileSystem, inner: str) -> str:
    bucket, _, within = inner.partition("/")
    try:
        if not within or (bucket and filesystem.get_file_info(bucket).type == pafs.FileType.NotFound):
            return f"no such bucket: {bucket!r}"
    except (pa.ArrowException, OSError):
        pass  # it may not be asked for
    return "no such file or folder"


def _metadata(handle: pa.NativeFile) -> Mapping[str, bytes]:
    return handle.metadata() or {}


def _time(text: str | None) -> int | None:
    """Nanoseconds since 1970 of '2026-11-26T09:10:01Z', in whole seconds; None of anything else."""
    try:
        return None if text is None else int(datetime.fromisoformat(text).timestamp()) * 1_000_000_000
    except ValueError:
        return None


def _under(filesystem: pafs.FileSystem, folder: str, uri: str) -> Iterator[str]:
    """The files below a folder."""
    if isinstance(filesystem, pafs.LocalFileSystem):  # Arrow follows links that go round in circles

        def refuse(error: OSError) -> None:
            raise unreadable(uri, error) from error

        for root, _, names in walk(folder, refuse):
            yield from (file for name in names if Path(file := f"{root.rstrip('/')}/{name}").is_file())
        return
    for info in tried(uri, lambda: filesystem.get_file_info(pafs.FileSelector(folder, recursive=True))):
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


# ---- filesystems


def _filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of an address, one for all of them that differ only in their path, and the path there."""
    base, mark, query = uri.partition("?")
    address = ADDRESS.match(base)
    assert address is not None
    scheme, authority, path = address.groups()
    if ":" in authority.rpartition("@")[0]:
        shown = f"{scheme}://…@{authority.rpartition('@')[2]}{path}"
        variables = f" set {', '.join(_KEYS[:2])}" if scheme == "s3" else " they come from the environment"
        raise DataError(f"no credentials in an address, which reports and states show;{variables}", place=Place(shown))
    key = (scheme, authority, query, *(os.environ.get(name) for name in (*_SETTINGS, *_KEYS)))
    with _lock:
        if key not in _opened:
            try:
                if scheme == "s3":
                    _opened[key] = _s3(uri, authority, query), f"{authority}/"
                else:
                    filesystem, inner = pafs.FileSystem.from_uri(f"{scheme}://{authority}/x{mark}{query}")
                    _opened[key] = filesystem, inner[:-1]
            except (pa.ArrowException, OSError, ValueError, TypeError) as error:
                raise DataError(
                    f"no filesystem opens this address ({first_line(error)}); "
                    "known are paths and s3://, gs://, abfs://, hdfs://, file://",
                    place=Place(uri),
                ) from error
        filesystem, prefix = _opened[key]
    inner = (prefix + unquote(path).lstrip("/")).rstrip("/")
    return filesystem, inner or "/"


def _s3(uri: str, bucket: str, query: str) -> pafs.S3FileSystem:
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in (*_TEXTS, *_FLAGS):
            raise ValueError(f"the option {name!r} is unknown; known are {', '.join((*_TEXTS, *_FLAGS))}")
        options[name] = value if name in _TEXTS else value.lower() in ("true", "1")
    endpoint = (
        options.pop("endpoint_override", None)
        or _setting("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        or _configured("endpoint_url")
    )
    if endpoint:
        scheme, mark, rest = endpoint.rpartition("://")
        options["endpoint_override"] = rest.rstrip("/")
        if mark:
            options.setdefault("scheme", scheme)
    if not options.get("region"):
        options["region"] = _setting("AWS_REGION", "AWS_DEFAULT_REGION") or _configured("region")
    if not options["region"]:
        # Where the store is somebody's own, nobody else is asked.
        options["region"] = "us-east-1" if endpoint else tried(uri, lambda: pafs.resolve_s3_region(bucket))
    return pafs.S3FileSystem(
        **options,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=1),
    )


def _setting(*names: str) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


def _configured(name: str) -> str | None:
    """What the profile in use says in the SDK's configuration file."""
    config = configparser.RawConfigParser()
    profile = os.environ.get("AWS_PROFILE") or "default"
    try:
        config.read(Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser(), encoding="utf-8")
    except (configparser.Error, OSError, ValueError):
        return None
    return next((config.get(at, name, fallback=None) for at in (f"profile {profile}", profile) if config.has_section(at)), None)
