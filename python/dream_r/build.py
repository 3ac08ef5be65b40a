"""Building an engine: checks that cost nothing first, then weights, then memory, then threads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dream_r import machine
from dream_r.checkpoint import resolve
from dream_r.config import EngineConfig, Request, SamplingParams
from dream_r.processor import ModelInput, PairProcessor
from dream_r.prompt import Prompts, digit_ids, keywords, load_prompts
from dream_r.thinking import MARK
from dream_r.tokens import Tokens
from dream_r.translate import Translator

log = logging.getLogger("dream_r")

GIB = 1 << 30
TYPICAL = 4096  # tokens of a request, where nobody said
DEFAULTS = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
}


@dataclass(frozen=True)
class Limits:
    """What a request must fit, and the sampling defaults of the target."""

    target_positions: int
    draft_positions: int | None
    reserve: int  # tokens of the scoring question, read after a step
    generation: dict[str, Any]

    def check(self, request: Request, target: ModelInput, draft: ModelInput | None) -> None:
        """ValueError when the prompt and its budgets do not fit a model's positions."""
        models = [("target", target, self.target_positions)]
        if draft is not None and self.draft_positions is not None:
            models.append(("draft", draft, self.draft_positions))
        for role, read, positions in models:
            prompt = len(read.ids)
            if prompt >= positions:
                raise ValueError(
                    f"the prompt has {prompt} tokens, more than the {role}'s "
                    f"{positions} positions; shorten it or use smaller pictures"
                )
            after = max(request.max_tokens, self.reserve)
            total = prompt + request.thinking_budget + after
            if total > positions:
                raise ValueError(
                    f"prompt {prompt} + thinking_budget {request.thinking_budget} + {after} for "
                    f"the answer or a verdict are more than the {role}'s {positions} positions; "
                    f"lower thinking_budget or max_tokens by {total - positions}"
                )

    def sampling(self, params: SamplingParams) -> dict[str, float]:
        """The numbers of `params`; None is replaced by generation_config.json, then by DEFAULTS."""
        sampled = bool(self.generation.get("do_sample", False))
        filled = {}
        for name, plain in DEFAULTS.items():
            value = getattr(params, name)
            if value is None and name == "temperature" and not sampled:
                value = 0.0
            if value is None:
                value = self.generation.get(name)
            filled[name] = plain if value is None else type(plain)(value)
        return filled


@dataclass(frozen=True)
class Built:
    core: Any
    processor: PairProcessor
    prompts: Prompts
    limits: Limits


def build(config: EngineConfig) -> Built:
    """Everything an Engine stands on. ValueError, MemoryError or RuntimeError of one line."""
    target = resolve(config.target)
    draft = resolve(config.draft) if config.draft is not None and config.method != "ar" else None
    prompts = load_prompts(
        target, config.reasoning_prompt, config.scoring_prompt, config.digit_prompt
    )
    processor = PairProcessor(target, draft)

    from dream_r import _core

    def load(folder: Path, device: str) -> Any:
        dtype = _core.fastest_dtype(device) if config.dtype == "auto" else config.dtype
        log.info("%s: weights in %s on %s", folder.name, dtype, device)
        return _core.load_model(str(folder), dtype, threads, device)

    threads = config.target_threads or machine.cores()
    draft_device = config.draft_device or config.device
    for device in (config.device, draft_device):
        _core.require_device(device)
    target_model = load(target.folder, config.device)
    draft_model = load(draft.folder, draft_device) if draft else None
    target_kv, draft_kv = kv_tokens(config, target_model, draft_model)
    config = replace(config, target_kv_tokens=target_kv, draft_kv_tokens=draft_kv)
    sizes = [model.vocab for model in (target_model, draft_model) if model]
    if not processor.same_tokens:
        sizes = sizes[:1]
    if len(processor.target.tokens) > min(sizes):
        raise ValueError(
            f"models {config.target} and {config.draft}: the tokenizer has "
            f"{len(processor.target.tokens)} tokens, a model only {min(sizes)}"
        )
    vocabulary = describe(config, processor.target.tokens, prompts, max(sizes))
    other = {} if processor.same_tokens else translation(processor, draft_model)
    core = _core.Engine(target_model, draft_model, vocabulary, options(config), **other)
    suffix = {"fpsr": prompts.scoring.suffix, "specreason": prompts.digits.suffix}.get(
        config.method, ""
    )
    limits = Limits(
        target_model.max_positions,
        draft_model.max_positions if draft_model else None,
        len(processor.target.tokens.encode(suffix)),
        target.generation,
    )
    return Built(core, processor, prompts, limits)


def describe(config: EngineConfig, tokens: Tokens, prompts: Prompts, size: int) -> Any:
    """What the runtime must know of the tokens; `size` is the larger model's vocabulary.

    Models of one tokenizer pad their vocabularies differently.
    """
    from dream_r import _core

    judged = config.method == "fpsr"
    graded = config.method == "specreason"
    positive, negative = keywords(tokens, prompts.scoring, config.spellings) if judged else ([], [])
    return _core.Vocabulary(
        classes=tokens.classes(size),
        eos=tokens.eos,
        think_end=-1 if tokens.think_end is None else tokens.think_end,
        forced_end=tokens.encode(f"{MARK}\n\n"),
        suppressed=tokens.suppressed(size),
        suffix=tokens.encode(prompts.scoring.suffix) if judged else [],
        positive=positive,
        negative=negative,
        digit_suffix=tokens.encode(prompts.digits.suffix) if graded else [],
        digits=digit_ids(tokens, prompts.digits) if graded else [],
        think_spelling=tokens.think_spelling,
    )


def translation(processor: PairProcessor, draft_model: Any) -> dict[str, Any]:
    """What the runtime needs where the draft reads and writes other tokens than the target."""
    from dream_r import _core

    assert processor.draft is not None
    ours, theirs = processor.target.tokens, processor.draft.tokens
    log.info("%s and %s have different tokenizers: steps are translated", ours.name, theirs.name)
    vocabulary = _core.Vocabulary(
        classes=theirs.classes(draft_model.vocab),
        eos=theirs.eos,
        think_end=-1 if theirs.think_end is None else theirs.think_end,
        forced_end=[],  # what forces and judges is the target's
        suppressed=theirs.suppressed(draft_model.vocab),
        suffix=[],
        positive=[],
        negative=[],
        digit_suffix=[],
        digits=[],
        think_spelling=theirs.think_spelling,
    )
    return {
        "draft_vocabulary": vocabulary,
        "to_target": Translator(theirs, ours).step,
        "to_draft": Translator(ours, theirs).step,
    }


def options(config: EngineConfig) -> Any:
    from dream_r import _core

    made = _core.EngineOptions()
    for name in (
        "method",
        "alpha",
        "window",
        "race",
        "mode",
        "verify",
        "min_mass",
        "max_step_tokens",
        "target_threads",
        "draft_threads",
        "max_requests",
        "target_kv_tokens",
        "draft_kv_tokens",
        "prefill_chunk",
        "proposals",
        "prefix_cache",
        "trace",
        "cuda_graphs",
    ):
        setattr(made, name, getattr(config, name))
    made.inline_mode = config.inline
    made.judge = f"digit-{config.specreason}" if config.method == "specreason" else "cpn"
    made.digit_threshold = config.specreason_threshold
    return made


@dataclass
class _Cache:
    role: str
    model: Any
    tokens: int  # asked for, 0 = as many as fit and are of use

    @property
    def cost(self) -> int:
        """Bytes of a token."""
        return int(self.model.kv_bytes_per_token)


def kv_tokens(config: EngineConfig, target: Any, draft: Any | None) -> tuple[int, int]:
    """Tokens of KV cache for target and draft; what was left open is cut to the free memory.

    MemoryError when what was asked for is more than the memory that is free.
    """
    caches = [_Cache("target", target, config.target_kv_tokens)]
    if draft:
        caches.append(_Cache("draft", draft, config.draft_kv_tokens))
    for device in {cache.model.device for cache in caches}:
        _fit([cache for cache in caches if cache.model.device == device], device, config)
    return caches[0].tokens, caches[1].tokens if draft else 0


def _fit(caches: Sequence[_Cache], device: str, config: EngineConfig) -> None:
    free = free_memory(device)
    if free is None:
        return
    for cache in caches:
        need = cache.tokens * cache.cost
        if need > free:
            raise MemoryError(
                f"{cache.role}_kv_tokens {cache.tokens} needs {need / GIB:.1f} GiB, but "
                f"{free / GIB:.1f} GiB of {memory_of(device)} are free; ask for at most "
                f"{int(0.9 * free) // cache.cost}"
            )
        free -= need
    still_open = [cache for cache in caches if not cache.tokens]
    if not still_open:
        return
    # A device's memory is there for this; the machine's has other uses.
    share = 0.5 if device == "cpu" else 0.9
    fits = max(int(share * free) // sum(cache.cost for cache in still_open), 1)
    for cache in still_open:
        each = TYPICAL if device == "cpu" else cache.model.max_positions
        cache.tokens = min(fits, each * config.max_requests)


def free_memory(device: str) -> int | None:
    """Bytes free where `device` ("cpu", "cuda:1") keeps its memory; None where not known."""
    if device == "cpu":
        return machine.memory_free()
    from dream_r import _core

    return _core.cuda_free_bytes(int(device.partition(":")[2] or 0))


def memory_of(device: str) -> str:
    return "memory" if device == "cpu" else f"the memory of {device}"
