"""The compiled runtime. Engine and its neighbours in the package are the public face of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def cpu_isa() -> str: ...
def cpu_isas() -> list[str]: ...
def fastest_dtype(device: str) -> str:
    """Of weights on "cpu" or "cuda:1": "bf16" or "i16"."""

def build_info() -> dict[str, Any]: ...
def require_device(name: str) -> None:
    """ValueError or RuntimeError of one line where "cpu", "cuda" or "cuda:1" cannot be used."""

def cuda_devices() -> list[tuple[str, int, str]]:
    """(name, bytes of memory, compute capability) of each, usable or not."""

def cuda_unusable() -> str:
    """Why no CUDA device can be used, in one line; empty where one can."""

def cuda_free_bytes(index: int) -> int: ...
def load_model(
    folder: str, dtype: str = "bf16", threads: int = 1, device: str = "cpu"
) -> Model: ...
def check_model(folder: str) -> None:
    """ValueError with load_model's reason when it would refuse; reads headers alone."""

def read_index(folder: str) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Name -> (dtype as in the file, shape, bytes) of the tensors of a folder's safetensors."""

class Model:
    @property
    def weight_bytes(self) -> int: ...
    @property
    def vocab(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def max_positions(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def kv_bytes_per_token(self) -> int: ...

class Vocabulary:
    def __init__(
        self,
        classes: NDArray[np.uint8],
        eos: Sequence[int],
        think_end: int,
        forced_end: Sequence[int],
        suppressed: Sequence[int],
        suffix: Sequence[int],
        positive: Sequence[int],
        negative: Sequence[int],
        digit_suffix: Sequence[int] = ...,
        digits: Sequence[Sequence[int]] = ...,
        think_spelling: Mapping[int, Sequence[int]] = ...,  # eight each
    ) -> None: ...

class EngineOptions:
    method: str
    race: str
    mode: str
    verify: str
    judge: str  # "cpn", "digit-greedy" or "digit-average"
    alpha: float
    window: int
    digit_threshold: float
    min_mass: float
    max_step_tokens: int
    answer_burst: int
    proposals: int
    prefill_chunk: int
    max_requests: int
    target_kv_tokens: int
    draft_kv_tokens: int
    target_threads: int
    draft_threads: int
    prefix_cache: bool
    inline_mode: bool
    cuda_graphs: bool
    trace: bool

class Request:
    target_ids: Sequence[int]
    draft_ids: Sequence[int]
    target_patches: NDArray[np.float32] | None
    draft_patches: NDArray[np.float32] | None
    target_grid: Sequence[tuple[int, int, int]]
    draft_grid: Sequence[tuple[int, int, int]]
    digests: Sequence[bytes]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    seed: int
    index: int
    thinking_budget: int
    max_tokens: int
    ignore_eos: bool

class Event:
    """kind "step", "answer", "done" or "error"; the other properties belong to some kinds only."""

    @property
    def kind(self) -> str: ...
    @property
    def at(self) -> float: ...
    @property
    def index(self) -> int: ...
    @property
    def author(self) -> str: ...
    @property
    def rho(self) -> float: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def begin(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def truncated(self) -> bool: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def metrics(self) -> dict[str, Any]: ...

class Engine:
    def __init__(
        self,
        target: Model,
        draft: Model | None,
        vocabulary: Vocabulary,
        options: EngineOptions,
        draft_vocabulary: Vocabulary | None = ...,  # of its own tokenizer; needs both:
        to_target: Callable[[list[int]], list[int]] | None = ...,  # a step of the draft
        to_draft: Callable[[list[int]], list[int]] | None = ...,
    ) -> None: ...
    def submit(self, request: Request) -> int: ...
    def next_event(self, id: int, timeout_s: float) -> Event | None: ...
    def wait(self, id: int, timeout_s: float) -> bool: ...
    def cancel(self, id: int) -> None: ...
    def drop_prefixes(self) -> None: ...
    def trace(self) -> list[tuple[str, str, int, int, float, float]]: ...
    def stats(self) -> dict[str, Any]: ...
    def close(self) -> None: ...
