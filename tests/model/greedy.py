"""Does the runtime write, token for token, what transformers writes? Greedy, in f32.

    python tests/model/greedy.py --problems 200

Held-out pocket problems of levels 1 to 4, the target alone. Where the two part, the gap between
the two tokens' logits (as transformers has them) tells a tie from a mistake. Exit code 1 if any do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dream_r
import torch
from dream_r.checkpoint import resolve
from dream_r.messages import normalise
from dream_r.pocket.problems import Problem, problem
from dream_r.processor import ModelInput, Processor
from tqdm import tqdm
from transformers import Qwen3VLForConditionalGeneration

THINKING, ANSWER = 1024, 64  # tokens at most


@dataclass(frozen=True)
class Case:
    """What both wrote for one problem; `gap` is that of the logits where they part first."""

    problem: Problem
    ours: list[int]
    theirs: list[int]
    at: int | None = None
    gap: float = 0.0


class Reference:
    """transformers' own model, reading what our processor makes of a problem."""

    def __init__(self, folder: str) -> None:
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model.eval()

    def inputs(self, read: ModelInput, more: Sequence[int] = ()) -> dict[str, torch.Tensor]:
        ids = torch.tensor([[*read.ids, *more]])
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == self.model.config.image_token_id).int(),
            "pixel_values": torch.from_numpy(read.pixels.patches),
            "image_grid_thw": torch.tensor(read.pixels.grid),
        }

    @torch.inference_mode()
    def write(self, read: ModelInput) -> list[int]:
        """Greedy, with the KV cache, without the token that ends it."""
        wrote = self.model.generate(
            **self.inputs(read), do_sample=False, use_cache=True, max_new_tokens=THINKING
        )[0, len(read.ids) :].tolist()
        return wrote[:-1] if wrote[-1] == self.model.generation_config.eos_token_id else wrote

    @torch.inference_mode()
    def gap(self, read: ModelInput, before: Sequence[int], one: int, other: int) -> float:
        logits = self.model(**self.inputs(read, before)).logits[0, -1]
        return float(logits[one] - logits[other])


def compare(
    target: str, wanted: Sequence[Problem], threads: int = 0, report: bool = False
) -> Iterator[Case]:
    """What the runtime and transformers write for each problem."""
    checkpoint = resolve(target)
    reference, processor = Reference(str(checkpoint.folder)), Processor(checkpoint)
    end = reference.model.generation_config.eos_token_id
    with dream_r.Engine(target, method="ar", dtype="f32", target_threads=threads) as engine:
        for p in tqdm(wanted, disable=not report):
            parts = [{"type": "image"}, {"type": "text", "text": p.question}]
            messages, pictures = normalise([{"role": "user", "content": parts}], [p.image])
            read = processor.encode(messages, pictures)
            theirs = reference.write(read)
            r = engine.generate(
                messages=[{"role": "user", "content": parts}],
                images=[p.image],
                temperature=0.0,
                thinking_budget=THINKING,
                max_tokens=ANSWER,
            )
            steps = [s for s in r.steps if s.author != "forced"]
            ours = [t for s in steps for t in s.tokens]
            ours += processor.tokens.encode(r.text[sum(len(s.text) for s in r.steps) :])
            both = list(zip([*ours, end], [*theirs, end], strict=False))
            at = next((i for i, (a, b) in enumerate(both) if a != b), None)
            gap = reference.gap(read, theirs[:at], *both[at][::-1]) if at is not None else 0.0
            yield Case(p, ours, theirs, at, gap)


def problems(count: int) -> list[Problem]:
    """Held-out problems, levels 1 to 4 in turn."""
    return [problem(seed, 1 + seed % 4, split="held-out") for seed in range(count)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=200, help="how many (200)")
    parser.add_argument("--target", default="pocket", help="model folder or built-in name (pocket)")
    parser.add_argument("--threads", type=int, default=0, help="of the runtime (0: its choice)")
    given = parser.parse_args()
    if given.problems < 1:
        parser.error("--problems must be at least 1")
    cases = list(compare(given.target, problems(given.problems), given.threads, report=True))
    apart = [c for c in cases if c.at is not None]
    for c in apart:
        print(
            f"level {c.problem.level}, problem {c.problem.seed}: token {c.at} is "
            f"{c.ours[c.at : c.at + 1]} here, {c.theirs[c.at : c.at + 1]} there, "
            f"logits {c.gap:.2g} apart"
        )
    tokens = sum(len(c.theirs) for c in cases)
    print(f"{len(cases) - len(apart)} of {len(cases)} problems agree ({tokens:,} tokens)")
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(main())
