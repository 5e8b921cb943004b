"""The values between two models, of rows whose own values have been kept: new − old, and what the label's probability gains.

A difference is rounded once, so its relative error is 2^-53 however near the two are. Where they are equal it is 0, also where
both are infinite. Δp = e^-c − e^-c' of the label's costs c and c', in nats.
"""

from __future__ import annotations

from typing import Any

from streamloss.ieee.elementary import exp_nonpositive
from streamloss.jit import decoder


@decoder
def write_differences(new: Any, old: Any, out: Any) -> None:
    """out = new − old, all (S, n)."""
    for s in range(out.shape[0]):
        a, b, d = new[s], old[s], out[s]
        for i in range(out.shape[1]):
            d[i] = a[i] - b[i] if a[i] != b[i] else 0.0


@decoder
def write_gains(new: Any, old: Any, gain: Any, squared: Any) -> None:
    """Δp and Δp² (n,) from the costs (n,) of the label by either model."""
    for i in range(gain.shape[0]):
        p, q = exp_nonpositive(-max(new[i], 0.0)), exp_nonpositive(-max(old[i], 0.0))
        gain[i] = p - q
        squared[i] = (p - q) * (p - q)
