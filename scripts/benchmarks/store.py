#!/usr/bin/env python3
"""A small object store on loopback that speaks as much of S3 as reading needs, and fails where it is told to.

    python scripts/benchmarks/store.py FOLDER [--latency SECONDS]        prints its port; ends when standard input does

The folders in FOLDER are the buckets, the files in them the objects; an ETag changes whenever a file is replaced. It answers
GET (with a range) and HEAD of objects, ListObjectsV2 and HEAD of buckets. Bodies go out by `sendfile`, a thread a connection:
it gives several GB/s, so that a reader's speed is seen and not its own. moto's server, which is complete, is for the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

KEY = "streamloss"  # the only access key that is let in
PAGE = 1000  # keys that a list has at most


class Request(NamedTuple):
    """What was asked for; a list has an empty key."""

    method: str
    bucket: str
    key: str
    start: int
    size: int


# What may go wrong with a request, instead of or in the middle of the answer.
INTERNAL, SLOW_DOWN = "500 InternalError", "503 SlowDown"
RESET, DROP, CLOSE = "reset", "drop", "close"  # the connection: before the answer, or in its middle, broken or closed
CUT, STALL = "cut", "stall"  # half of the body, as if it were all; nothing comes
Faults = Callable[[Request], str | None]


class Store(ThreadingHTTPServer):
    """The server; `requests` are all that came, `faults` says of each what goes wrong with it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, latency: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.latency = folder, latency
        self.requests: list[Request] = []
        self.faults: Faults = lambda request: None
        self.ended = threading.Event()

    @property
    def endpoint(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[Store]:
        """Serves in threads of this process."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.ended.set()
            self.shutdown()
            thread.join()
            self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go away as they like."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        address = urlsplit(self.path)
        bucket, _, key = unquote(address.path).lstrip("/").partition("/")
        query = {name: values[-1] for name, values in parse_qs(address.query, keep_blank_values=True).items()}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        stop = int(asked[2]) + 1 if asked and asked[2] else None
        request = Request(self.command, bucket, key, start, -1 if stop is None else stop - start)
        self.server.requests.append(request)
        if self.server.latency:
            time.sleep(self.server.latency)
        fault = self.server.faults(request)
        if fault == STALL:
            self.server.ended.wait()
            self.close_connection = True
        elif fault == RESET:
            self._reset()
        elif fault in (INTERNAL, SLOW_DOWN):
            self._error(*fault.split())
        elif f"Credential={KEY}/" not in self.headers.get("Authorization", ""):
            self._error("403", "InvalidAccessKeyId")
        elif not (self.server.folder / bucket).is_dir():
            self._error("404", "NoSuchBucket")
        elif not key:
            self._list(bucket, query)
        else:
            self._object(self.server.folder / bucket / key, start, stop, fault)

    def _object(self, path: Path, start: int, stop: int | None, fault: str | None) -> None:
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:
            self._error("404", "NoSuchKey")
            return
        try:
            found = os.fstat(file)
            if path.is_dir():
                self._error("404", "NoSuchKey")
                return
            end = found.st_size if stop is None else min(stop, found.st_size)
            if start > max(0, found.st_size - 1):
                self._error("416", "InvalidRange")
                return
            size = (end - start) // 2 if fault == CUT and self.command == "GET" else end - start
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("Content-Length", str(size))
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{found.st_size}")
            self.send_header("Last-Modified", formatdate(found.st_mtime, usegmt=True))
            self.send_header("ETag", _etag(found))
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if self.command == "HEAD":
                return
            left = size // 2 if fault in (DROP, CLOSE) else size
            while left:
                sent = os.sendfile(self.connection.fileno(), file, start, left)
                if not sent:
                    break
                start, left = start + sent, left - sent
            if fault == DROP:
                self._reset()
            self.close_connection = self.close_connection or fault == CLOSE
        finally:
            os.close(file)

    def _reset(self) -> None:
        """Ends the connection as a network does that breaks."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        root, prefix, after = self.server.folder / bucket, query.get("prefix", ""), query.get("continuation-token", "")
        delimiter = query.get("delimiter", "")
        keys = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        entries: dict[str, str] = {}
        for key in keys:
            if not key.startswith(prefix):
                continue
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            if end >= 0:
                entries[key[: end + 1]] = f"<CommonPrefixes><Prefix>{escape(key[: end + 1])}</Prefix></CommonPrefixes>"
                continue
            found = (root / key).stat()
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(found.st_mtime))
            facts = f"<LastModified>{when}</LastModified><ETag>{escape(_etag(found))}</ETag><Size>{found.st_size}</Size>"
            entries[key] = f"<Contents><Key>{escape(key)}</Key>{facts}</Contents>"
        names = [name for name in entries if name > after][: min(PAGE, int(query.get("max-keys", PAGE)))]
        more = bool(names) and names[-1] != list(entries)[-1]
        token = f"<NextContinuationToken>{escape(names[-1])}</NextContinuationToken>" if more else ""
        body = "".join(entries[name] for name in names)
        self._send(
            200,
            f"<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(names)}</KeyCount>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{body}</ListBucketResult>",
        )

    def _error(self, status: str, code: str) -> None:
        self._send(int(status), f"<Error><Code>{code}</Code><Message>{code}</Message></Error>")

    def _send(self, status: int, xml: str) -> None:
        body = b'<?xml version="1.0" encoding="UTF-8"?>' + xml.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _etag(found: os.stat_result) -> str:
    return f'"{hashlib.md5(f"{found.st_ino} {found.st_mtime_ns} {found.st_size}".encode()).hexdigest()}"'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of buckets")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="before every answer [default: 0]")
    given = parser.parse_args()
    with Store(given.folder, given.latency).running() as store:
        print(store.endpoint, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
