"""streamloss: exact, streaming entropy, cross-entropy and KL divergence of prediction files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "calibrate": "api",
    "compare": "api",
    "evaluate": "api",
    "merge": "api",
    "score": "writing.scores",
    "Evaluator": "api",
    "PredictionWriter": "writing.writer",
    "Report": "reporting.report",
    "DataError": "errors",
    "StreamlossError": "errors",
    "UsageError": "errors",
    "binary_cross_entropy": "functions",
    "cross_entropy": "functions",
    "entropy": "functions",
    "kl_divergence": "functions",
    "softmax": "functions",
    "write_predictions": "writing.writer",
}
__all__ = sorted(_HOMES)

if TYPE_CHECKING:
    from streamloss.api import Evaluator as Evaluator
    from streamloss.api import calibrate as calibrate
    from streamloss.api import compare as compare
    from streamloss.api import evaluate as evaluate
    from streamloss.api import merge as merge
    from streamloss.errors import DataError as DataError
    from streamloss.errors import StreamlossError as StreamlossError
    from streamloss.errors import UsageError as UsageError
    from streamloss.functions import binary_cross_entropy as binary_cross_entropy
    from streamloss.functions import cross_entropy as cross_entropy
    from streamloss.functions import entropy as entropy
    from streamloss.functions import kl_divergence as kl_divergence
    from streamloss.functions import softmax as softmax
    from streamloss.reporting.report import Report as Report
    from streamloss.writing.scores import score as score
    from streamloss.writing.writer import PredictionWriter as PredictionWriter
    from streamloss.writing.writer import write_predictions as write_predictions


def __getattr__(name: str) -> Any:
    """Public names load on first use: importing streamloss is cheap."""
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f"streamloss.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'streamloss' has no attribute {name!r}")
