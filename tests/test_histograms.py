"""The histograms that figures are drawn from: every row in its bin, whatever the values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import streamloss
from streamloss.digits import (
    MIDDLE,
)
from streamloss.reporting.histograms import bucket_value


def histogram(logprobs: list[float], **more: Any) -> dict[str, Any] | None:
    table = {"logprob": np.array(logprobs), **{key: np.array(values) for key, values in more.items()}}
    found = streamloss.evaluate(table, unit="nat").to_dict(histograms=True)["histograms"]
    return found.get("cross_entropy")


def test_every_row_is_in_the_bin_of_its_value() -> None:
    losses = np.random.default_rng(7).lognormal(-2, 1.5, 5000)
    found = histogram((-losses).tolist())
    assert found is not None
    edges = np.array(found["edges"])
    assert len(edges) == 61
    counted, _ = np.histogram(losses, edges)
    assert [round(share * 5000) for share in found["shares"]] == counted.tolist()
    assert round(found["below"] * 5000) == int((losses < edges[0]).sum()) <= 25
    # About the same factor everywhere, or the bars would show the edges instead of the rows.
    steps = np.diff(np.log(edges))
    assert steps.max() / steps.min() < 1.1


def test_weights_count() -> None:
    found = histogram([-0.5, -2.0], weight=[3.0, 1.0])
    assert found is not None
    assert [share for share in found["shares"] if share] == [0.75, 0.25]


@pytest.mark.parametrize(
    ("logprobs", "below", "shown"),
    [
        ([0.0, 0.0, -1.0, -1.0], 0.5, 0.5),  # zeros are under the first edge
        ([-math.inf, -1.0], 0.0, 0.5),  # what is infinite is in no bin
        ([-1.0], 0.0, 1.0),
        ([-5e-324, -1e300], 0.5, 0.0),  # too small and too large for a bucket of their own
        ([-(2.0**127.998), -1.0], 0.0, 0.5),
    ],
)
def test_the_edges_of_what_there_is(logprobs: list[float], below: float, shown: float) -> None:
    found = histogram(logprobs)
    if shown == 0:
        assert found is None
        return
    assert found is not None
    assert found["below"] == below
    assert math.fsum(found["shares"]) == shown
    assert found["edges"] == sorted(set(found["edges"]))


def test_a_histogram_is_in_the_unit_and_not_in_the_json() -> None:
    table = {"logprob": np.array([-0.5, -2.0])}
    nat, bit = (streamloss.evaluate(table, unit=unit) for unit in ("nat", "bit"))
    assert "histograms" not in nat.to_dict()
    edges = [report.to_dict(histograms=True)["histograms"]["cross_entropy"]["edges"] for report in (nat, bit)]
    assert edges[1] == pytest.approx([edge / math.log(2) for edge in edges[0]])


def test_a_bucket_lies_between_its_edges() -> None:
    for bucket in (MIDDLE + 1, MIDDLE + 12_345, 2 * MIDDLE - 1):
        assert bucket_value(bucket, 0.0) < bucket_value(bucket) < bucket_value(bucket, 1.0)
        assert bucket_value(bucket + 1, 0.0) in (bucket_value(bucket, 1.0), math.inf)
