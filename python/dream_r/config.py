"""Settings of an engine and of a request, checked when they are made.

Every error is a ValueError of one line that says what is wrong and what would be right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    Picture = Image | NDArray[Any] | bytes | str | PathLike[str]

Method = Literal["ar", "specreason", "fpsr"]
Race = Literal["first", "verdict"]
Mode = Literal["auto", "hedged", "sequential", "off"]
Verify = Literal["fused", "separate"]
DType = Literal["auto", "bf16", "f16", "i16", "f32"]
SpecReason = Literal["greedy", "average"]

CHOICES: dict[str, tuple[str, ...]] = {
    "method": get_args(Method),
    "race": get_args(Race),
    "mode": get_args(Mode),
    "verify": get_args(Verify),
    "dtype": get_args(DType),
    "specreason": get_args(SpecReason),
}


def _whole(name: str, value: object, low: int, high: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    if not low <= value <= high:
        upper = "" if high == math.inf else f" and at most {high:g}"
        raise ValueError(f"{name} must be at least {low}{upper}, not {value}")


def _real(name: str, value: object, low: float, high: float, open_low: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError(f"{name} must be a number, not {value!r}")
    if not low <= value <= high or (open_low and value == low):
        above = f"above {low:g}" if open_low else f"at least {low:g}"
        upper = "" if high == math.inf else f" and at most {high:g}"
        raise ValueError(f"{name} must be {above}{upper}, not {value:g}")


def _device(name: str, value: object) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"cpu|cuda(:[0-9]{1,4})?", value):
        raise ValueError(f'{name} must be "cpu", "cuda" or "cuda:<index>", not {value!r}')


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What an engine is made of: two checkpoints, a method and its knobs, and resources.

    `target` and `draft` name a checkpoint folder, a model of the Hugging Face hub ("org/name" or
    "org/name@revision"), or the built-in "pocket" / "pocket-draft".
    A count of 0 in the resource settings means "choose for me".
    """

    target: str | PathLike[str] = "pocket"
    draft: str | PathLike[str] | None = None
    method: Method = "fpsr"
    # Verification
    alpha: float = 0.7  # a step is accepted iff rho > alpha
    window: int = 4  # steps drafted ahead of the last verdict
    race: Race = "first"  # "verdict": the output depends on the seed alone, never on timing
    mode: Mode = "auto"  # may the target write its own step beside the draft?
    verify: Verify = "fused"  # verdict rows inside the target's forward, or a lane of their own
    min_mass: float = 0.0  # least probability of the two keywords together; 0 = not computed
    spellings: bool = False  # also count other one-token spellings of the keywords
    specreason: SpecReason = "greedy"
    specreason_threshold: int = 7  # digit at which specreason accepts
    max_step_tokens: int = 256
    proposals: int = 16  # tokens the target may read ahead of its own choice; 0 = none
    # Resources
    # Of weights and KV cache. auto: bf16, but i16 on CPUs that multiply it faster; f16: CUDA
    # devices alone; i16: the CPU alone, weights and their inputs as whole numbers, KV in bf16.
    dtype: DType = "auto"
    device: str = "cpu"  # of the target: "cpu", "cuda" or "cuda:1"
    draft_device: str = ""  # "" = the target's
    cuda_graphs: bool = True  # decode on a CUDA device by graphs
    target_threads: int = 0
    draft_threads: int = 0
    max_requests: int = 16  # requests in flight together; others wait
    target_kv_tokens: int = 0
    draft_kv_tokens: int = 0
    prefill_chunk: int = 512  # tokens
    prefix_cache: bool = True
    # Prompts: files that replace the checkpoint's own and the built-in ones
    reasoning_prompt: str | PathLike[str] | None = None
    scoring_prompt: str | PathLike[str] | None = None
    digit_prompt: str | PathLike[str] | None = None
    # Testing and drawing
    inline: bool = False  # everything on the caller's thread, in order
    trace: bool = False  # keep lane spans for the timeline

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
        _real("alpha", self.alpha, 0, 1)
        _real("min_mass", self.min_mass, 0, 1)
        _whole("window", self.window, 1, 64)
        _whole("specreason_threshold", self.specreason_threshold, 0, 9)
        _whole("max_step_tokens", self.max_step_tokens, 1)
        _whole("proposals", self.proposals, 0, 1024)
        _whole("max_requests", self.max_requests, 1, 4096)
        _whole("prefill_chunk", self.prefill_chunk, 1)
        _device("device", self.device)
        if self.draft_device:
            _device("draft_device", self.draft_device)
        if self.dtype in ("f16", "i16"):
            self._check_place()
        for name in ("target_threads", "draft_threads"):
            _whole(name, getattr(self, name), 0, 1024)
        for name in ("target_kv_tokens", "draft_kv_tokens"):
            _whole(name, getattr(self, name), 0)
        if self.method != "ar" and self.draft is None:
            raise ValueError(f"method {self.method} needs a draft: name one, or use method ar")

    def _check_place(self) -> None:
        devices = {"device": self.device}
        if self.method != "ar":
            devices["draft_device"] = self.draft_device or self.device
        for name, device in devices.items():
            if self.dtype == "f16" and device == "cpu":
                raise ValueError(
                    f"dtype f16 is for CUDA devices: use bf16 or f32 on the CPU ({name} is cpu)"
                )
            if self.dtype == "i16" and device != "cpu":
                raise ValueError(
                    f"dtype i16 is for the CPU: use bf16 or f16 on a GPU ({name} is {device})"
                )


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn. None takes the target's generation_config.json, else the plain default.

    The draft and the target use the same settings. `temperature` 0 is greedy. The first of
    the `stop` strings to be complete cuts the committed text where it begins. `n` asks for that
    many samples.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None  # 0 = all
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    stop: str | Sequence[str] = ()
    seed: int | None = None  # None draws one; the result says which
    n: int = 1
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        else:
            object.__setattr__(self, "stop", tuple(self.stop))
        if not all(isinstance(s, str) and s for s in self.stop):
            raise ValueError("stop must be a non-empty string or a list of them")
        limits = {
            "temperature": (0, 100, False),
            "top_p": (0, 1, True),
            "min_p": (0, 1, False),
            "repetition_penalty": (0, 100, True),
            "presence_penalty": (-2, 2, False),
        }
        for name, (low, high, open_low) in limits.items():
            if (value := getattr(self, name)) is not None:
                _real(name, value, low, high, open_low)
        if self.top_k is not None:
            _whole("top_k", self.top_k, 0)
        if self.seed is not None:
            _whole("seed", self.seed, 0, 2**63 - 1)
        _whole("n", self.n, 1, 1024)


@dataclass(frozen=True, kw_only=True)
class Request(SamplingParams):
    """One question: either `question` with `images`, or a chat as `messages`.

    Images of `messages` stand inside them, or fill its {"type": "image"} places in order.
    """

    question: str | None = None
    images: Sequence[Picture] = ()
    messages: Sequence[Mapping[str, Any]] | None = None
    thinking_budget: int = 1024  # tokens
    max_tokens: int = 256  # tokens of the answer

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.question is None) == (self.messages is None):
            raise ValueError("give either a question or messages")
        if self.question is not None and not isinstance(self.question, str):
            raise ValueError(f"the question must be text, not {type(self.question).__name__}")
        if self.question is not None and not self.question.strip():
            raise ValueError("the question is empty")
        if self.messages is not None and not self.messages:
            raise ValueError("messages is empty: give at least one user message")
        if isinstance(self.images, str | bytes) or not isinstance(self.images, Sequence):
            raise ValueError("images must be a list, for example images=['board.png']")
        _whole("thinking_budget", self.thinking_budget, 0)
        _whole("max_tokens", self.max_tokens, 1)
