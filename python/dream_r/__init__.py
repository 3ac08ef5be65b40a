"""DREAM-R: multimodal speculative reasoning, a small draft proposing and a large target judging.

>>> import dream_r
>>> with dream_r.Engine(target="pocket", draft="pocket-draft", method="fpsr") as engine:
...     r = engine.generate("Count the red shapes.", images=["board.png"])
...     r.answer, r.metrics.acceptance
"""

from __future__ import annotations

from typing import Any

from dream_r.config import EngineConfig, Request, SamplingParams
from dream_r.engine import Engine, Span
from dream_r.result import AnswerPiece, Done, Event, Metrics, Result, Step, Usage
from dream_r.stream import Stream

__all__ = [
    "AnswerPiece",
    "Done",
    "Engine",
    "EngineConfig",
    "Event",
    "Metrics",
    "Request",
    "Result",
    "SamplingParams",
    "Span",
    "Step",
    "Stream",
    "Usage",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("dream-r")
        except PackageNotFoundError:  # run from a source tree
            return "0+unknown"
    raise AttributeError(f"module 'dream_r' has no attribute {name!r}")
