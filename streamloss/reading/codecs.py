"""Parquet's compression codecs by pyarrow, with the size of what comes out looked at before and after.

A page says how large it becomes; pyarrow's codecs take that memory and, all but zstd's, leave what the data do not fill as
it was. So whether the data agree is asked first, and no codec is believed to do more than it can (Compression.md).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from streamloss.reading.encodings import lz4_length
from streamloss.reading.footer import Declined
from streamloss.reading.window import Bytes

# CompressionCodec, as pyarrow calls them, with the most bytes that one can become.
CODECS = {
    0: ("none", 1), 1: ("snappy", 64), 2: ("gzip", 1040), 4: ("brotli", 1 << 20), 6: ("zstd", 1 << 16), 7: ("lz4_raw", 256),
}  # fmt: skip
CODEC_NAMES = {3: "LZO", 5: "LZ4 of Hadoop"}

AHEAD = 1 << 18  # bytes that are read at a time: they are still in the second cache when they are decompressed


class Codec:
    """The codec of a column chunk."""

    def __init__(self, number: int) -> None:
        self._name, self.most = CODECS[number]
        self.compresses = self._name != "none"
        self.slow = self._name in ("gzip", "brotli", "zstd")
        self._codec = pa.Codec(self._name) if self.compresses else None

    def decompress(self, data: Bytes, size: int) -> Bytes:
        """The `size` bytes that the data become: the data themselves where nothing is compressed.

        Raises `Declined` when they become another number, and what pyarrow raises over damaged data.
        """
        if self._codec is None:
            if len(data) != size:
                raise Declined("the size of a page is damaged")
            return data
        if size == 0:
            return data[:0]
        if not fits(self._name, data, size):
            raise Declined("the size of a compressed page is damaged")
        found: Bytes = np.frombuffer(self._codec.decompress(pa.py_buffer(data), size), dtype=np.uint8)
        if len(found) != size:
            raise Declined("the size of a compressed page is damaged")
        found.flags.writeable = False
        return found


def fits(name: str, data: Bytes, size: int) -> bool:
    """Whether the data say that they decompress to `size` bytes: pyarrow's codecs leave what is missing as it was.

    zstd needs no question, it fails unless the size is right.
    """
    if name == "snappy":  # a varint stands in front
        value = shift = 0
        for byte in data[:5].tolist():
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        return value == size
    if name == "gzip":  # the last four bytes, which zlib has compared when it succeeds
        return int.from_bytes(data[-4:].tobytes(), "little") == size
    if name == "lz4_raw":
        return bool(lz4_length(data) == size)
    if name == "brotli":  # says nothing of its length: once more, piece by piece
        length = 0
        with pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(data)), "brotli") as stream:
            while length <= size and (piece := len(stream.read(AHEAD))):
                length += piece
        return length == size
    return True
