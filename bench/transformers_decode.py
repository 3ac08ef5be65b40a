"""Decode speed of one model here against transformers' generate, in turn, in one run.

Both continue the same prompts greedily for the same number of tokens, in bf16 on all cores; the
ratio is per pair, the median and the range are printed. Needs torch (the `test` extra).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

EXAMPLE = """\
examples:
  python bench/transformers_decode.py                   the pocket target
  python bench/transformers_decode.py --model pocket-draft --tokens 64
  python bench/transformers_decode.py --model /models/Qwen3-VL-2B-Thinking --pairs 3"""


def ours(folder: str, tokens: int) -> Callable[[list[int]], float]:
    """Seconds for `tokens` decoded after a prompt, its prefill left out."""
    from dream_r import _core, machine

    model = _core.load_model(folder, "bf16", machine.cores())
    session = _core.model.Session(model, 256, machine.cores())

    def measure(prompt: list[int]) -> float:
        session.truncate(0)
        positions, _, rows = model.positions(prompt, [])
        logits = session.append(prompt, positions, None, rows)
        following = int(np.argmax(logits[-1]))
        start = time.perf_counter()
        for i in range(tokens):
            at = len(prompt) + i
            logits = session.append([following], [(at, at, at)])
            following = int(np.argmax(logits[-1]))
        return time.perf_counter() - start

    return measure


def theirs(folder: str, tokens: int) -> Callable[[list[int]], float]:
    """The same through transformers: generate of n + 1 tokens less generate of one."""
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).eval()

    def generate(prompt: list[int], count: int) -> float:
        ids = torch.tensor([prompt])
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
            )
        return time.perf_counter() - start

    return lambda prompt: generate(prompt, tokens + 1) - generate(prompt, 1)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="pocket", help="pocket, pocket-draft or a folder")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=64, help="tokens")
    parser.add_argument("--pairs", type=int, default=7)
    given = parser.parse_args()
    from dream_r.checkpoint import resolve

    folder = str(resolve(given.model).folder)
    here, there = ours(folder, given.tokens), theirs(folder, given.tokens)
    random = np.random.default_rng(0)
    pairs = []
    for i in range(given.pairs + 1):
        prompt = random.integers(10, 200, given.prompt).tolist()
        pair = here(prompt), there(prompt)
        if i:  # the first warms both up
            pairs.append(pair)
    ratios = sorted(b / a for a, b in pairs)
    per = [1e3 * statistics.median(p[i] for p in pairs) / given.tokens for i in (0, 1)]
    print(
        f"{given.model}: decode {per[0]:.3f} ms a token here, {per[1]:.3f} in transformers: "
        f"{statistics.median(ratios):.1f}x [{ratios[0]:.1f}, {ratios[-1]:.1f}] "
        f"over {len(pairs)} pairs of {given.tokens} tokens"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
