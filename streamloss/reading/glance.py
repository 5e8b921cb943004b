"""What columns a person could mean, while the command is being typed: the footer of one local file, and no more.

Nothing compiled is imported: an answer that takes half a second comes too late.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.parquet as pq

from streamloss.reading.paths import is_uri, local_files, partitions


def columns(paths: Sequence[str]) -> dict[str, str]:
    """Name and type of the columns of the first of the files, its hive partitions last; of local ones alone.

    Raises `DataError` when there is no such file, and whatever pyarrow does when it cannot be read.
    """
    first = min((file for path in paths if not is_uri(path) for file in local_files(path)), default=None)
    if first is None:
        return {}
    found = {field.name: str(field.type) for field in pq.read_schema(first)}
    return found | dict.fromkeys(partitions(first), "partition")
