"""Every kind of input that someone else may have written: small ones, ways to damage them, how the reading of one ends.

For `scripts/fuzz` and the tests. A kind is a line of KINDS. What is damaged ends as 'read …' or in the line of one of our
errors; whatever else happens is a finding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import damage_checkpoints
import damage_ipc
import damage_parquet
import damage_states

Options = dict[str, Any]
Seed = tuple[bytes, Options]  # an input as it should be, and how it is read
Way = Callable[[Path, Options], str]  # reads the damaged input at a path and says how that ended


class Kind(NamedTuple):
    """A kind of input.

    seeds: small inputs of it, made anew in a folder, always the same bytes.
    damaged: one of them with something wrong, the same for the same random numbers.
    ways: who reads it, by name.
    words: the command line that does, and what stands on its standard input.
    judge: what is wrong with how it ended, by the names of the ways.
    others: ways whose memory is not ours.
    """

    seeds: Callable[[Path], list[Seed]]
    damaged: Callable[[Random, list[Seed]], Seed]
    ways: dict[str, Way]
    words: Callable[[Path, Options], tuple[list[str], bytes | None]]
    judge: Callable[[dict[str, str]], list[str]]
    others: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    "parquet": Kind(
        damage_parquet.all_seeds,
        damage_parquet.any_damage,
        damage_parquet.WAYS,
        damage_parquet.words,
        damage_parquet.judge,
        others=("arrow",),
    ),
    "ipc": Kind(damage_ipc.seeds, damage_ipc.damaged, damage_ipc.WAYS, damage_ipc.words, damage_ipc.judge),
    "checkpoint": Kind(
        damage_checkpoints.seeds,
        damage_checkpoints.damaged,
        damage_checkpoints.WAYS,
        damage_checkpoints.words,
        damage_checkpoints.judge,
    ),
    "state": Kind(damage_states.seeds, damage_states.damaged, damage_states.WAYS, damage_states.words, damage_states.judge),
}
