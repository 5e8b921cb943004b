"""What of a file's layout costs time, and what would read faster: the advice of `streamloss inspect`.

Only what was measured to matter is said (two cores, page cache, float32, default report; times beside the same rows as
`streamloss.write_predictions` writes them, K = 10 … 1,000):

- compression of predictions: snappy and lz4 1.2 times as long, zstd 2, gzip 4.5, brotli 9; of one number a row zstd 1.2,
  gzip 2, brotli 4. Where it saves half or more of the bytes, it may be worth its time;
- K flat columns beside one of lists: 1.4 at K = 10, 2 at K = 100;
- a column that is left to pyarrow: 1.4 to 1.8 over a single null in lists, 1.3 over text labels of 10 classes, 2.5 over
  those of a binary prediction;
- lists of uint16, the bits of 16-bit floats, beside fixed-size binary: 1.3;
- row groups of 40 to 120 kB: 1.2 to 2.3, of 400 kB 1.1; row groups too large to be shared out, compressed: 1.1 to 1.2.

Dictionaries that predictions have outgrown, statistics, nullable columns without nulls, and lists beside binary made a
tenth of a difference or none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from streamloss.memory import told
from streamloss.reading import footer as bytewise
from streamloss.reading.arrow import Footer
from streamloss.reading.files import open_file
from streamloss.reading.layouts import storage
from streamloss.reading.paths import local
from streamloss.reading.roles import CLASS_ROLES, Plan

SMALL = 256 << 10  # decoded bytes of a row group
LARGE = 128 << 20
FEW = 64  # row groups: fewer cost nothing that is noticed
WORTH = 0.5  # of the bytes that a codec saves
# Encoding and CompressionCodec of parquet.thrift, as pyarrow calls them.
ENCODINGS = {
    0: "PLAIN", 2: "PLAIN_DICTIONARY", 3: "RLE", 4: "BIT_PACKED", 5: "DELTA_BINARY_PACKED", 6: "DELTA_LENGTH_BYTE_ARRAY",
    7: "DELTA_BYTE_ARRAY", 8: "RLE_DICTIONARY", 9: "BYTE_STREAM_SPLIT",
}  # fmt: skip
COMPRESSIONS = {
    0: "UNCOMPRESSED", 1: "SNAPPY", 2: "GZIP", 3: "LZO", 4: "BROTLI", 5: "LZ4", 6: "ZSTD", 7: "LZ4",
}  # fmt: skip
TIMES = {"SNAPPY": 1.2, "LZ4": 1.2, "ZSTD": 2.0, "GZIP": 4.5, "BROTLI": 9.0}
TIMES_FLAT = {"ZSTD": 1.2, "GZIP": 2.0, "BROTLI": 4.0}


@dataclass
class Stored:
    """How a column is stored over all files, as far as the footers tell."""

    encodings: set[str] = field(default_factory=set)
    codecs: set[str] = field(default_factory=set)
    bytes: int = 0
    uncompressed: int = 0


def stored_as(footers: list[Footer], names: list[str]) -> dict[str, Stored]:
    """Adds up the chunks of every column, as far as the footers tell.

    They are read by `footer`, for pyarrow ends the process over some chunks that are damaged, as soon as they are looked at.
    """
    found = {name: Stored() for name in names}
    for footer in footers:
        leaves = [(found[name], leaf) for name in names for leaf in footer.leaves.get(name, [])]
        try:
            with open_file(footer.path) as file:
                ours = bytewise.Footer(file)
                _, chunks = ours.chunks([leaf for _, leaf in leaves], 0, ours.row_groups)
        except (bytewise.Declined, pa.ArrowException, OSError, ValueError, MemoryError):
            continue
        for stored, leaf in leaves:
            for chunk in chunks[leaf]:
                if not isinstance(chunk, str):
                    stored.encodings.update(name for bit, name in ENCODINGS.items() if chunk.encodings >> bit & 1)
                    stored.codecs.add(COMPRESSIONS.get(chunk.codec, str(chunk.codec)))
                    stored.bytes += chunk.end - chunk.start
                    stored.uncompressed += chunk.uncompressed
    return found


def advice(
    schema: pa.Schema, footers: list[Footer], stored: dict[str, Stored], plan: Plan | None, left: dict[str, str]
) -> list[dict[str, Any]] | None:
    """What would read faster, as {"column", "text"}, column None for the file's row groups; [] when nothing would.

    None where nothing can be said: what is evaluated is not known, or is no local file.
    """
    if plan is None or not footers or any(local(footer.path) is None for footer in footers):
        return None
    found: list[dict[str, Any]] = []
    slow = bool(left)

    def say(column: str | None, text: str) -> None:
        found.append({"column": column, "text": text})

    for role in (plan.prediction, plan.target):
        if role is None:
            continue
        names = plan.columns[role]
        shown = plan.roles[role]
        if len(names) > 1:
            say(shown, f"{len(names)} columns are put together row by row; one column of lists reads faster")
        for codec, share in _compression([stored[name] for name in names]).items():
            times = (TIMES if role in CLASS_ROLES else TIMES_FLAT).get(codec)
            if times and share < WORTH:
                slow = slow or times >= TIMES_FLAT["ZSTD"]
                saves = f"saves {100 * share:.0f} %" if share >= 0.005 else "saves nothing"
                say(shown, f"{codec.lower()} {saves} and takes about {times:g} times as long; uncompressed reads faster")
        if len(names) == 1 and names[0] not in left and _is_wide_16(schema.field(names[0])):
            say(shown, "Parquet keeps uint16 in 4 bytes; fixed-size binary takes half the room and reads faster")
    for name, reason in left.items():
        if (text := _instead(reason)) is not None:
            say(name, text)
    rows = [rows for footer in footers for rows in footer.group_rows]
    mean = sum(rows) * plan.row_bytes // max(1, len(rows))
    if len(rows) - len(footers) >= FEW and mean < SMALL:
        say(None, f"row groups of {told(mean)} on average; of about 16 MB they read faster")
    elif slow and max(rows, default=0) * plan.row_bytes > LARGE:
        largest = told(max(rows) * plan.row_bytes)
        say(None, f"row groups of up to {largest}, which one thread decodes; of 16 MB threads share them out")
    return found


def _compression(columns: list[Stored]) -> dict[str, float]:
    """The codecs of a prediction, and the share of its bytes that they save together."""
    codecs = sorted(set().union(*(column.codecs for column in columns)) - {"UNCOMPRESSED"})
    whole = sum(column.uncompressed for column in columns)
    saved = 1 - sum(column.bytes for column in columns) / whole if whole else 0.0
    return dict.fromkeys(codecs, saved)


def _is_wide_16(field: pa.Field) -> bool:
    kind = storage(field.type)
    return hasattr(kind, "value_type") and bool(pa.types.is_uint16(kind.value_type))


def _instead(reason: str) -> str | None:
    """What to write in the place of what the page reader leaves to pyarrow, where that is known to be faster."""
    if reason == "it holds text":
        return "pyarrow reads text; class numbers read faster"
    if reason.startswith("there are nulls"):
        return "rows without nulls and of one length read faster; a mask can leave rows out"
    return None
