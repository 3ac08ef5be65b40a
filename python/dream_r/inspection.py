"""What a checkpoint is and whether it runs here, from its small files and the weights' headers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dream_r.checkpoint import Checkpoint
from dream_r.processor import PairProcessor, Processor
from dream_r.prompt import load_prompts
from dream_r.thinking import MARK

Index = dict[str, tuple[str, tuple[int, ...], int]]  # name -> dtype, shape, bytes

PER_WORD = 8  # 4-bit values in an int32
PACKED = (".qweight", ".weight_packed")
BESIDE = (".qzeros", ".scales", ".g_idx", ".weight_scale", ".weight_zero_point", ".weight_shape")
W4_BITS = 4 + (16 + 4) / 128  # a weight, with the fp16 scale and 4-bit zero of its group of 128
LINEARS = ("_proj.weight", "_proj.qweight", "_proj.weight_packed")
LINEARS += ("experts.gate_up_proj", "experts.down_proj")  # of fused experts


@dataclass(frozen=True)
class Parameters:
    """Counts. `active`: of those, the ones that a text token uses."""

    text: int
    vision: int
    experts: int  # part of text
    active: int


@dataclass(frozen=True)
class Inspection:
    """One checkpoint. `problem` is the line that loading would fail with; None: it loads."""

    name: str
    folder: Path
    architecture: str
    parameters: Parameters | None
    weights: dict[str, int]  # bytes: "as stored", "bf16", "w4"
    stored: dict[str, int]  # bytes by dtype
    quantisation: str | None
    kv_bytes_per_token: int | None  # bf16
    context: int | None  # tokens
    vocabulary: int | None  # rows of the model, padding included
    tokens: int | None
    thinking: str | None
    pictures: bool
    problem: str | None

    def to_dict(self) -> dict[str, Any]:
        from dataclasses import asdict

        return {**asdict(self), "folder": str(self.folder)}


def inspect(checkpoint: Checkpoint) -> Inspection:
    """Never fails for a folder that resolve() found: what cannot be known is None."""
    from dream_r import _core

    config = checkpoint.config
    text = config.get("text_config") or config
    index, problem = {}, None
    try:
        index = _core.read_index(str(checkpoint.folder))
    except ValueError as error:
        problem = str(error)
    processor = _quietly(lambda: Processor(checkpoint))
    found = _quietly(lambda: count(index, text)) if index else None
    return Inspection(
        name=checkpoint.name,
        folder=checkpoint.folder,
        architecture=", ".join(config.get("architectures") or ())
        or str(config.get("model_type", "not named")),
        parameters=found,
        weights=_bytes(index) if index else {},
        stored=_by_dtype(index),
        quantisation=quantisation(config),
        kv_bytes_per_token=_quietly(lambda: kv_bytes(text)),
        context=text.get("max_position_embeddings"),
        vocabulary=text.get("vocab_size"),
        tokens=len(processor.tokens) if processor else None,
        thinking=thinking(processor) if processor else None,
        pictures=checkpoint.has_vision,
        problem=problem or why_not(checkpoint),
    )


def why_not(checkpoint: Checkpoint) -> str | None:
    """The one line that loading this checkpoint as a target would fail with."""
    from dream_r import _core

    try:
        load_prompts(checkpoint)
        processor = Processor(checkpoint)
        _ = processor.tokens.think_spelling
        _core.check_model(str(checkpoint.folder))
        if checkpoint.has_vision:
            _ = processor.images
        text = checkpoint.config.get("text_config") or checkpoint.config
        processor.tokens.classes(text["vocab_size"])
        _ = processor.tokens.eos
    except ValueError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class Pairing:
    """Whether two models can work together; `problem` as in Inspection."""

    same_tokenizer: bool
    note: str
    problem: str | None


def pair(target: Checkpoint, draft: Checkpoint) -> Pairing:
    """How a draft's steps can reach a target. ValueError when a tokenizer cannot be read."""
    ours, theirs = Processor(target), Processor(draft)
    same = theirs.tokens.same_as(ours.tokens)
    sizes = [(c.config.get("text_config") or c.config).get("vocab_size") for c in (target, draft)]
    if not same:
        note = "different tokenizers: whole steps only, their text read anew by the other model"
    elif sizes[0] != sizes[1]:
        note = f"the same tokenizer, vocabularies padded to {sizes[0]:,} and {sizes[1]:,}: "
        note += "steps and single tokens"
    else:
        note = "the same tokenizer: steps and single tokens"
    try:
        PairProcessor(target, draft)
    except ValueError as error:
        return Pairing(same, note, str(error))
    return Pairing(same, note, None)


def elements(name: str, entry: tuple[str, tuple[int, ...], int]) -> int:
    """Weights in a tensor: eight in an int32 of a 4-bit matrix, none in its scales and zeros."""
    if name.endswith(BESIDE):
        return 0
    total = 1
    for side in entry[1]:
        total *= side
    return total * PER_WORD if name.endswith(PACKED) else total


def _is_vision(name: str) -> bool:
    return any(part in ("visual", "vision_tower", "vision_model") for part in name.split("."))


def count(index: Index, text: dict[str, Any]) -> Parameters:
    sizes = {name: elements(name, entry) for name, entry in index.items()}
    vision = sum(n for name, n in sizes.items() if _is_vision(name))
    experts = sum(n for name, n in sizes.items() if ".experts." in name)
    whole = sum(sizes.values()) - vision
    share = 1.0
    if experts:
        share = text["num_experts_per_tok"] / (text.get("num_experts") or text["num_local_experts"])
    return Parameters(whole, vision, experts, whole - experts + round(experts * share))


def _bytes(index: Index) -> dict[str, int]:
    """Bytes of the weights as they are stored, and of the same model in other formats."""
    sizes = {name: elements(name, entry) for name, entry in index.items()}
    linear = sum(
        n
        for name, n in sizes.items()
        if any(part in name for part in LINEARS) and not _is_vision(name)
    )
    total = sum(sizes.values())
    return {
        "as stored": sum(entry[2] for entry in index.values()),
        "bf16": 2 * total,
        "w4": 2 * (total - linear) + round(linear * W4_BITS / 8),
    }


def _by_dtype(index: Index) -> dict[str, int]:
    found: dict[str, int] = {}
    for dtype, _, size in index.values():
        found[dtype] = found.get(dtype, 0) + size
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def kv_bytes(text: dict[str, Any]) -> int:
    """Keys and values of a token in bf16."""
    heads = text["num_attention_heads"]
    width = text.get("head_dim") or text["hidden_size"] // heads
    return 2 * 2 * text["num_hidden_layers"] * (text.get("num_key_value_heads") or heads) * width


def quantisation(config: dict[str, Any]) -> str | None:
    """The quantisation that config.json names, in a few words."""
    found = config.get("quantization_config") or (config.get("text_config") or {}).get(
        "quantization_config"
    )
    if not isinstance(found, dict):
        return None
    words = [str(found.get("quant_method", "unnamed"))]
    words += [str(found[key]) for key in ("format", "version") if found.get(key)]
    words += [f"{key} {found[key]}" for key in ("bits", "group_size") if key in found]
    return ", ".join(words)


def thinking(processor: Processor) -> str:
    """Where this model's thinking begins, by its tokenizer and its rendered prompt."""
    source = processor.template.source
    prompt = _quietly(lambda: processor.template.render([{"role": "user", "content": "?"}])) or ""
    if "enable_thinking" in source:
        opened = "can be switched: the template knows enable_thinking"
    elif prompt.rstrip().endswith("<think>"):
        opened = "always: the prompt opens <think>"
    else:
        opened = "the model opens <think> itself: the runtime opens it in the prompt"
    spelled = processor.tokens.think_end is None
    return f"{opened}; {MARK} is spelled with ordinary tokens" if spelled else opened


def _quietly(make: Any) -> Any:
    try:
        return make()
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None
