"""A stand-in for the extension: the same surface, and a script instead of models.

The script is a list of ("draft"|"target", rho, text) steps and an answer text; each request plays
it, token by token for the answer, and can be cancelled between events.
"""

import itertools
import time
from types import SimpleNamespace
from typing import ClassVar

SCRIPT = [("draft", 0.97, "One.\n\n"), ("target", None, "Two.\n\n"), ("draft", 0.9, "</think>")]
ANSWER = "\n\nThe answer is \\boxed{5}."


class Model:
    weight_bytes, parameters, layers, max_positions = 1000, 500, 2, 4096
    kv_bytes_per_token = 1024
    device = "cpu"

    def __init__(self, folder):
        self.folder, self.vocab = folder, 300


def load_model(folder, dtype, threads, device):
    return Model(folder)


def fastest_dtype(device):
    return "bf16"


def require_device(name):
    if name != "cpu":
        raise RuntimeError(f"{name}: there is none")


def cuda_unusable():
    return "this build has no CUDA"


class Vocabulary:
    def __init__(
        self,
        classes,
        eos,
        think_end,
        forced_end,
        suppressed,
        suffix,
        positive,
        negative,
        digit_suffix,
        digits,
        think_spelling,
    ):
        self.__dict__.update({k: v for k, v in locals().items() if k != "self"})


class EngineOptions:
    pass


class Request:
    pass


class Engine:
    """Plays `script` and `answer` (set on the class by a test), encoded by `encode`."""

    script, answer, encode, delay = SCRIPT, ANSWER, None, 0.0
    submitted: ClassVar[list] = []

    def __init__(self, target, draft, vocabulary, options, **translation):
        self.vocabulary, self.options, self.translation = vocabulary, options, translation
        self._ids, self._queues, self._cancelled = itertools.count(1), {}, set()
        self.closed = False

    def submit(self, request):
        assert all(isinstance(i, int) for i in request.target_ids)
        type(self).submitted.append(request)
        id = next(self._ids)
        self._queues[id] = self._play(id)
        return id

    def _play(self, id):
        reasoning = answer = 0
        reason = "stop"
        for k, (author, rho, text) in enumerate(self.script):
            if id in self._cancelled:
                reason = "cancelled"
                break
            tokens = type(self).encode(text)
            reasoning += len(tokens)
            yield SimpleNamespace(
                kind="step",
                index=k,
                author=author,
                tokens=tokens,
                begin=k * 0.1,
                rho=float("nan") if rho is None else rho,
                end=k * 0.1 + 0.08,
                truncated=False,
            )
        else:
            for token in type(self).encode(self.answer):
                if id in self._cancelled:
                    reason = "cancelled"
                    break
                answer += 1
                yield SimpleNamespace(kind="answer", tokens=[token])
        yield SimpleNamespace(
            kind="done",
            finish_reason=reason,
            metrics={
                "accepted": 2,
                "rejected": 1,
                "reasoning_tokens": reasoning,
                "answer_tokens": answer,
                "wasted_draft_tokens": 4,
                "wasted_target_tokens": 3,
                "seconds": 0.5,
                "lane_seconds": {"draft": 0.1, "target": 0.2, "verify": 0.05},
                "unheard_of": 1,
            },
        )

    def next_event(self, id, timeout):
        time.sleep(self.delay)
        return next(self._queues[id], None)

    def wait(self, id, timeout):
        return True

    def cancel(self, id):
        self._cancelled.add(id)

    def trace(self):
        return [
            ("draft", "draft", 1, 0, 0.0, 0.1),
            ("target", "own", 1, 0, 0.0, 0.2),
            ("verify", "verify", 1, 0, 0.1, 0.15),
        ]

    def stats(self):
        return {"blocks": 4}

    def close(self):
        self.closed = True


def cpu_isa():
    return "portable"


def cpu_isas():
    return ["portable"]


def build_info():
    return {"compiler": "none", "cuda": False}
