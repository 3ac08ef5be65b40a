"""The engine: two models, a method, and requests that run on them.

>>> with Engine(target="pocket", draft="pocket-draft") as engine:
...     result = engine.generate("How many red shapes are there?", images=["board.png"])
"""

from __future__ import annotations

import atexit
import dataclasses
import secrets
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from dream_r.config import (
    DType,
    EngineConfig,
    Method,
    Mode,
    Race,
    Request,
    SamplingParams,
    SpecReason,
    Verify,
)
from dream_r.result import Result
from dream_r.stream import Stream

if TYPE_CHECKING:
    from dream_r.config import Picture
    from dream_r.processor import ModelInput

Path = str | PathLike[str]


class Span(NamedTuple):
    """One piece of work of a lane; times in seconds since the engine began."""

    lane: str  # "draft", "target" or "verify"
    name: str
    request: int
    step: int
    begin: float
    end: float


class _Prepared(NamedTuple):
    request: Request
    target: ModelInput
    draft: ModelInput | None
    digests: list[bytes]
    seed: int


class Engine:
    """Runs requests on a target, with a draft when the method has one. Close it, or use `with`.

    The parameters are those of EngineConfig. ValueError for settings, checkpoints and prompts that
    cannot work, MemoryError when the weights or the KV cache do not fit. Threads may share an
    engine.
    """

    def __init__(
        self,
        target: Path = "pocket",
        draft: Path | None = None,
        *,
        method: Method = "fpsr",
        alpha: float = 0.7,
        window: int = 4,
        race: Race = "first",
        mode: Mode = "auto",
        verify: Verify = "fused",
        min_mass: float = 0.0,
        spellings: bool = False,
        specreason: SpecReason = "greedy",
        specreason_threshold: int = 7,
        max_step_tokens: int = 256,
        proposals: int = 16,
        dtype: DType = "auto",
        device: str = "cpu",
        draft_device: str = "",
        cuda_graphs: bool = True,
        target_threads: int = 0,
        draft_threads: int = 0,
        max_requests: int = 16,
        target_kv_tokens: int = 0,
        draft_kv_tokens: int = 0,
        prefill_chunk: int = 512,
        prefix_cache: bool = True,
        reasoning_prompt: Path | None = None,
        scoring_prompt: Path | None = None,
        digit_prompt: Path | None = None,
        inline: bool = False,
        trace: bool = False,
    ) -> None:
        given = locals()
        self._core: Any = None
        self.config = EngineConfig(
            **{f.name: given[f.name] for f in dataclasses.fields(EngineConfig)}
        )
        self._start()

    @classmethod
    def from_config(cls, config: EngineConfig) -> Engine:
        return cls(**{f.name: getattr(config, f.name) for f in dataclasses.fields(config)})

    def _start(self) -> None:
        from dream_r import build

        made = build.build(self.config)
        self._processor, self._prompts, self._limits = made.processor, made.prompts, made.limits
        self._core = made.core
        # The runtime's threads end before the interpreter does: one of them may call into it.
        atexit.register(_close, weakref.ref(made.core))

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what runs and release threads and memory. May be called twice."""
        if self._core is not None:
            self._core.close()
            self._core = None

    def generate(
        self,
        question: str | None = None,
        *,
        images: Sequence[Picture] = (),
        messages: Sequence[Mapping[str, Any]] | None = None,
        thinking_budget: int = 1024,
        max_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        presence_penalty: float | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        n: int = 1,
        ignore_eos: bool = False,
    ) -> Result:
        """Answer a question about pictures, or a chat. The parameters are those of Request.

        Budgets are in tokens. ValueError for a request that cannot be run, RuntimeError when the
        runtime fails; Ctrl-C cancels the request and raises KeyboardInterrupt.
        """
        return self.generate_many([_request(locals())])[0]

    def stream(
        self,
        question: str | None = None,
        *,
        images: Sequence[Picture] = (),
        messages: Sequence[Mapping[str, Any]] | None = None,
        thinking_budget: int = 1024,
        max_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        presence_penalty: float | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        n: int = 1,
        ignore_eos: bool = False,
    ) -> Stream:
        """As generate(), but events as they happen: committed steps, answer pieces, Done."""
        return self.submit(_request(locals()))

    def submit(self, request: Request) -> Stream:
        """Start a request made beforehand and return its stream."""
        if request.n != 1:
            raise ValueError("a stream has one sample: use generate() for n > 1")
        return self._submit(self._prepare(request), 0)

    def generate_many(self, requests: Sequence[str | Mapping[str, Any] | Request]) -> list[Result]:
        """Run many requests together, their rows batched; results in the order of `requests`.

        Each is a question, a dict of Request's fields, or a Request. When one cannot be run, the
        others are cancelled and its error is raised.
        """
        wanted = [as_request(r) for r in requests]
        running: deque[tuple[int, Stream]] = deque()
        done: list[list[Result]] = [[] for _ in wanted]

        def collect() -> None:
            i, stream = running[0]
            done[i].append(stream.finish())
            running.popleft()

        try:
            for i, request in enumerate(wanted):
                prepared = self._prepare(request)
                for index in range(request.n):
                    if len(running) >= 4 * self.config.max_requests:
                        collect()
                    running.append((i, self._submit(prepared, index)))
            while running:
                collect()
        except BaseException:
            for _, stream in running:
                stream.cancel()
            for _, stream in running:
                stream.abandon()
            raise
        return [dataclasses.replace(first, others=tuple(others)) for first, *others in done]

    def cancel(self, id: int) -> None:
        """Cancel a request by its id (Stream.id); its stream ends with what was committed."""
        self._running().cancel(id)

    def trace(self) -> list[Span]:
        """What each lane did, in order of time (needs trace=True)."""
        return [Span(*span) for span in self._running().trace()]

    def stats(self) -> dict[str, Any]:
        """The runtime's own counters: blocks, requests, measured speeds, threads."""
        return dict(self._running().stats())

    def _running(self) -> Any:
        if self._core is None:
            raise RuntimeError("the engine is closed")
        return self._core

    def _prepare(self, request: Request) -> _Prepared:
        from dream_r.images import digest, load_picture
        from dream_r.messages import of_request

        self._running()
        messages, sources = of_request(request, self._prompts)
        pictures = [load_picture(source) for source in sources]
        target, draft = self._processor.encode(messages, pictures)
        self._limits.check(request, target, draft)
        seed = secrets.randbits(63) if request.seed is None else request.seed
        return _Prepared(request, target, draft, [digest(p) for p in pictures], seed)

    def _submit(self, prepared: _Prepared, index: int) -> Stream:
        from dream_r import _core

        request, target, draft, digests, seed = prepared
        row = _core.Request()
        row.target_ids, row.draft_ids = target.ids, draft.ids if draft else []
        row.target_patches, row.target_grid = target.pixels.patches, target.pixels.grid
        row.draft_patches = draft.pixels.patches if draft else None
        row.draft_grid = draft.pixels.grid if draft else []
        row.digests = digests
        for name, value in self._limits.sampling(request).items():
            setattr(row, name, value)
        row.seed, row.index = seed, index
        row.thinking_budget, row.max_tokens = request.thinking_budget, request.max_tokens
        row.ignore_eos = request.ignore_eos
        core = self._running()
        return Stream(
            core,
            core.submit(row),
            self._processor.target.tokens,
            request.stop,
            seed,
            len(target.ids),
            target.image_tokens,
        )


def _close(reference: weakref.ref[Any]) -> None:
    if (core := reference()) is not None:
        core.close()


def _request(given: Mapping[str, Any]) -> Request:
    return Request(**{f.name: given[f.name] for f in dataclasses.fields(Request)})


def as_request(given: str | Mapping[str, Any] | Request) -> Request:
    """A Request from a question or a dict of fields."""
    if isinstance(given, Request):
        return given
    if isinstance(given, str):
        return Request(question=given)
    if not isinstance(given, Mapping):
        raise ValueError(
            f"a request must be a question, a dict or a Request, not {type(given).__name__}"
        )
    known = sorted(f.name for f in dataclasses.fields(Request))
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"a request has no field {unknown[0]!r}; it has {', '.join(known)}")
    return Request(**given)


__all__ = ["Engine", "EngineConfig", "Request", "SamplingParams", "Span"]
