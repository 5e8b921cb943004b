"""What a running evaluation tells whoever watches: how far it is, and what the loss looks like so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One look at a run: rows and bytes done, their totals where known, seconds since the start.

    `cross_entropy` is the mean over the rows so far, in nats; None while there is none (no truth, no rows yet). `resumed` rows
    of the total were counted before, by a run that this one goes on from.
    """

    rows: int
    bytes: int
    total_rows: int | None
    total_bytes: int | None
    seconds: float
    cross_entropy: float | None
    resumed: int = 0

    @classmethod
    def at(
        cls,
        rows: int,
        total: int | None,
        size: int | None,
        seconds: float,
        cross_entropy: float | None = None,
        resumed: int = 0,
    ) -> Progress:
        """So many rows of an input of `total` rows and `size` bytes; the bytes that are done go by the rows."""
        return cls(rows, int(size * rows / total) if size and total else 0, total, size, seconds, cross_entropy, resumed)

    @property
    def fraction(self) -> float | None:
        """The part that is done, 0 to 1, by rows or else by bytes; None when no total is known."""
        for done, total in ((self.rows + self.resumed, self.total_rows), (self.bytes, self.total_bytes)):
            if total:
                return min(done / total, 1.0)
        return None

    @property
    def resumed_fraction(self) -> float:
        """The part that was done before this run, 0 to 1."""
        return min(self.resumed / self.total_rows, 1.0) if self.total_rows else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The rest of the time at the speed so far; None when there is nothing to tell it from."""
        done, before = self.fraction, self.resumed_fraction
        return self.seconds * (1 - done) / (done - before) if done and done > before else None
