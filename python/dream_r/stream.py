"""One running request: events of the runtime become text, stop strings cut it, a result remains."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dream_r.result import (
    AnswerPiece,
    Done,
    Event,
    FinishReason,
    Metrics,
    Result,
    Step,
    Usage,
    answer_of,
)
from dream_r.thinking import MARK

if TYPE_CHECKING:
    from dream_r.tokens import Tokens

_POLL = 0.1  # seconds between looks for Ctrl-C
_PATIENCE = 10.0  # seconds that a cancelled request may take to end


class StopCutter:
    """Cuts the committed text where the stop string begins that is complete first.

    Text that may be the beginning of a stop string is held back until that is known, so that what
    was handed out is never taken back; a step is held back whole.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.found = False
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._text = ""
        self._held: deque[tuple[int, Step | AnswerPiece]] = deque()  # with where each begins

    def push(self, item: Step | AnswerPiece) -> list[Step | AnswerPiece]:
        """What may be handed out now that `item` has come."""
        if self.found:
            return []
        if not self._stops:
            return [item]
        begin = len(self._text)
        self._text += item.text
        self._held.append((begin, item))
        near = max(0, begin - self._longest + 1)
        places = [(p + len(s), p) for s in self._stops if (p := self._text.find(s, near)) >= 0]
        if places:
            self.found = True
            return self._release(min(places)[1], cut=True)
        return self._release(len(self._text) - self._open_end(), cut=False)

    def finish(self) -> list[Step | AnswerPiece]:
        """What was held back when no more text comes."""
        return self._release(len(self._text), cut=False)

    def _open_end(self) -> int:
        """Length of the longest end of the text that a stop string begins with."""
        limit = min(self._longest - 1, len(self._text))
        return next(
            (
                n
                for n in range(limit, 0, -1)
                if any(s.startswith(self._text[-n:]) for s in self._stops)
            ),
            0,
        )

    def _release(self, until: int, cut: bool) -> list[Step | AnswerPiece]:
        out: list[Step | AnswerPiece] = []
        while self._held:
            begin, item = self._held[0]
            end = begin + len(item.text)
            if end <= until:
                out.append(item)
                self._held.popleft()
                continue
            splits = cut or isinstance(item, AnswerPiece)
            if splits and begin < until:
                out.append(dataclasses.replace(item, text=item.text[: until - begin]))
                rest = dataclasses.replace(item, text=item.text[until - begin :])
                self._held[0] = (until, rest)
            if cut:
                self._held.clear()
            break
        return out


class Stream(Iterator[Event]):
    """Iterates over committed steps, then pieces of the answer, then Done. Nothing is retracted.

    `id` names the request for Engine.cancel(). RuntimeError when the runtime fails the request.
    """

    def __init__(
        self,
        core: Any,
        id: int,
        tokens: Tokens,
        stops: Sequence[str],
        seed: int,
        prompt_tokens: int,
        image_tokens: int,
    ) -> None:
        self.id = id
        self.result: Result | None = None
        self._core = core
        self._decoder = tokens.stream()
        self._stops = tuple(stops)
        self._cutter = StopCutter(stops)
        self._seed = seed
        self._prompt = (prompt_tokens, image_tokens)
        self._out: deque[Event] = deque()
        self._steps: list[Step] = []
        self._answer: list[str] = []
        self._ended = False

    def __next__(self) -> Event:
        while not self._out:
            if self._ended:
                raise StopIteration
            self._take(self._core.next_event(self.id, _POLL))
        return self._out.popleft()

    def cancel(self) -> None:
        """Ask the runtime to stop; the stream then ends with what was committed."""
        if not self._ended:
            self._core.cancel(self.id)

    def finish(self) -> Result:
        """Run to the end. A KeyboardInterrupt cancels the request first and is raised again."""
        try:
            if not self._stops:  # else what comes must be looked at as it comes
                self._await_end()
            for _ in self:
                pass
        except KeyboardInterrupt:
            self.abandon()
            raise
        assert self.result is not None
        return self.result

    def _await_end(self) -> None:
        """Sleep until the request has ended: being woken for each step would cost it time."""
        while not self._ended and not self._core.wait(self.id, _POLL):
            pass

    def abandon(self) -> None:
        """Cancel and wait until the runtime has let go of the request."""
        self.cancel()
        end = time.monotonic() + _PATIENCE
        while not self._ended and time.monotonic() < end:
            self._take(self._core.next_event(self.id, _POLL))

    def _take(self, event: Any) -> None:
        if event is None:
            return
        if event.kind == "step":
            tokens = event.tokens
            text = self._decoder.push(tokens)
            rho = None if math.isnan(event.rho) else float(event.rho)
            # What is put by force takes no lane's time: it is there when it is committed.
            begin, end = (
                (event.at, event.at) if event.author == "forced" else (event.begin, event.end)
            )
            self._push(
                Step(
                    event.index,
                    event.author,
                    rho,
                    text,
                    tuple(tokens),
                    begin,
                    end,
                    bool(event.truncated),
                )
            )
        elif event.kind == "answer":
            if text := self._decoder.push(event.tokens):
                self._push(AnswerPiece(text))
        elif event.kind == "error":
            self._ended = True
            raise RuntimeError(event.message)
        else:
            self._end(event)

    def _push(self, item: Step | AnswerPiece) -> None:
        before = self._cutter.found
        self._hand_out(self._cutter.push(item))
        if self._cutter.found and not before:
            self._core.cancel(self.id)

    def _hand_out(self, items: Sequence[Step | AnswerPiece]) -> None:
        for item in items:
            if isinstance(item, Step):
                self._steps.append(item)
            else:
                self._answer.append(item.text)
            self._out.append(item)

    def _end(self, event: Any) -> None:
        if not self._cutter.found:
            if rest := self._decoder.finish():
                self._push(AnswerPiece(rest))
            self._hand_out(self._cutter.finish())
        reason: FinishReason = "stop" if self._cutter.found else event.finish_reason
        metrics = Metrics.of(event.metrics)
        reasoning = "".join(step.text for step in self._steps)
        answer = "".join(self._answer)
        behind = reasoning.rpartition(MARK)[2] if MARK in reasoning else ""
        self.result = Result(
            id=self.id,
            answer=answer_of(behind + answer),  # a token may end the thinking and begin the answer
            text=reasoning + answer,
            reasoning=reasoning.partition(MARK)[0].strip(),
            finish_reason=reason,
            usage=Usage(*self._prompt, metrics.reasoning_tokens, metrics.answer_tokens),
            steps=tuple(self._steps),
            metrics=metrics,
            seed=self._seed,
        )
        self._ended = True
        self._out.append(Done(self.result))
