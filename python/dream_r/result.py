"""What a request gives back: steps as they are committed, pieces of the answer, and the whole."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "cancelled", "error"]
Author = Literal["draft", "target", "forced"]


@dataclass(frozen=True)
class Step:
    """One committed step of the reasoning.

    `rho` is the verdict on the draft's step, None where nothing was judged. Times are in seconds;
    `begin` and `end` count from when the request was submitted. `truncated`: cut at
    max_step_tokens.
    """

    index: int
    author: Author
    rho: float | None
    text: str
    tokens: tuple[int, ...]
    begin: float
    end: float
    truncated: bool = False

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True)
class AnswerPiece:
    """Some more text of the answer, as it is generated."""

    text: str


@dataclass(frozen=True)
class Usage:
    """Counts of tokens; image tokens are part of the prompt's, the rest of the completion's."""

    prompt_tokens: int
    image_tokens: int
    reasoning_tokens: int
    answer_tokens: int

    @property
    def completion_tokens(self) -> int:
        return self.reasoning_tokens + self.answer_tokens

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What the runtime did for a request. Seconds, tokens and steps."""

    accepted: int = 0
    rejected: int = 0
    drafted: int = 0  # steps
    verified: int = 0
    skipped: int = 0  # rejected without a pass: empty, repeated, EOS, no step in target's tokens
    ahead_drafted: int = 0  # while an earlier verdict was still out
    ahead_verified: int = 0
    target_steps: int = 0
    draft_tokens: int = 0
    target_tokens: int = 0
    wasted_draft_tokens: int = 0
    wasted_target_tokens: int = 0
    proposed_tokens: int = 0  # that the target read ahead of its own choice, and then chose as well
    agreed_tokens: int = 0
    reasoning_tokens: int = 0
    answer_tokens: int = 0
    target_forwards: int = 0
    lane_seconds: Mapping[str, float] = field(default_factory=dict)  # busy time of each lane
    prefill_seconds: float = 0.0
    first_step_seconds: float = 0.0
    seconds: float = 0.0
    answer_seconds: float = 0.0
    overlap_seconds: float = 0.0  # two or more lanes busy
    degraded: bool = False  # speculation was shed for lack of memory
    budget_hit: bool = False  # the thinking budget was used up
    nan_verdicts: int = 0
    low_mass_verdicts: int = 0  # the verdict words were too unlikely
    truncated_steps: int = 0
    prefix_tokens: int = 0  # of the target's prompt, found in the cache
    translated: int = 0  # steps read anew by the other model; 0: one tokenizer
    translate_seconds: float = 0.0
    mode_steps: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Metrics:
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in found.items() if name in known})

    @property
    def acceptance(self) -> float | None:
        """Accepted of the judged steps; None when none was judged."""
        judged = self.accepted + self.rejected
        return self.accepted / judged if judged else None

    @property
    def ceiling(self) -> float | None:
        """The speed-up 1/(1-p) that acceptance p allows at best; None when none was judged."""
        return None if self.acceptance is None else ceiling(self.acceptance)

    @property
    def tokens_wasted(self) -> int:
        """Tokens generated and thrown away, of both models."""
        return self.wasted_draft_tokens + self.wasted_target_tokens


def ceiling(acceptance: float) -> float:
    return math.inf if acceptance >= 1 else 1 / (1 - acceptance)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished (or cancelled) request.

    `text` is all that was generated, `reasoning` the part before </think>, `answer` the content
    of the last \\boxed{} of the rest, or the rest itself. `others` are the further samples when
    n > 1.
    """

    id: int
    answer: str
    reasoning: str
    text: str
    finish_reason: FinishReason
    usage: Usage
    steps: tuple[Step, ...]
    metrics: Metrics
    seed: int
    others: tuple[Result, ...] = ()

    @property
    def samples(self) -> tuple[Result, ...]:
        """All n samples, this one first."""
        return (self, *self.others)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: infinite and missing numbers become None."""
        made = dataclasses.asdict(self)
        made["usage"].update(
            completion_tokens=self.usage.completion_tokens, total_tokens=self.usage.total_tokens
        )
        made["metrics"].update(
            acceptance=self.metrics.acceptance,
            ceiling=self.metrics.ceiling,
            tokens_wasted=self.metrics.tokens_wasted,
        )
        for step, source in zip(made["steps"], self.steps, strict=True):
            step["seconds"] = source.seconds
        made["others"] = [other.to_dict() for other in self.others]
        return {name: _plain(value) for name, value in made.items()}


@dataclass(frozen=True)
class Done:
    """The last event of a stream."""

    result: Result


Event = Step | AnswerPiece | Done


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def boxed(text: str) -> str | None:
    """The content of the last complete \\boxed{...}, braces balanced; None when there is none."""
    mark = "\\boxed{"
    start = text.rfind(mark)
    while start >= 0:
        depth = 1
        for i in range(start + len(mark), len(text)):
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            if depth == 0:
                return text[start + len(mark) : i].strip()
        start = text.rfind(mark, 0, start)
    return None


def answer_of(text: str) -> str:
    """The answer in what follows </think>."""
    found = boxed(text)
    return text.strip() if found is None else found
