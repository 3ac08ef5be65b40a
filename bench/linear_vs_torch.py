"""Linear layers against torch (oneDNN) on the same cores: us a call and the ratio torch / ours.

The two are timed in turn, round by round, so that other load on the machine meets both alike; the
ratio is the median over rounds. w4 (random INT4 weights in groups of 128) is timed against torch's
bf16: torch has no INT4 product of its own on a CPU that would be the one to beat.
"""

import argparse
import json
import statistics
import time

import numpy as np
import torch
from dream_r._core import ops

# name, outputs n, inputs k
SHAPES = [
    ("pocket target qkv", 512, 256),
    ("pocket target gate_up", 1536, 256),
    ("0.6B gate_up", 6144, 1024),
    ("0.6B down", 1024, 3072),
    ("2B gate_up", 12288, 2048),
]
SECONDS_A_ROUND = 0.02
GROUP = 128  # elements of k that share a scale in w4


def timed(call):
    """Seconds a call over about SECONDS_A_ROUND."""
    start = time.perf_counter()
    call()
    calls = max(1, int(SECONDS_A_ROUND / max(time.perf_counter() - start, 1e-7)))
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def make_weights(stream, rng, n, k, fmt):
    """A packed weight and the same matrix in f32."""
    if fmt != "w4":
        weight = rng.standard_normal((n, k), dtype=np.float32)
        return ops.pack_linear(stream, weight, fmt), weight
    q = rng.integers(0, 16, (n, k // 8, 8), dtype=np.uint32)
    words = np.bitwise_or.reduce(q << np.arange(0, 32, 4, dtype=np.uint32), axis=-1)
    scales = np.full((n, k // GROUP), 0.25, np.float32)
    packed = ops.pack_w4(stream, "pack-quantized", words.view(np.int32), scales, group=GROUP)
    return packed, (q.reshape(n, k).astype(np.float32) - 8) * 0.25


def compare(stream, n, k, rows, fmt, rounds):
    rng = np.random.default_rng(0)
    packed, weight = make_weights(stream, rng, n, k, fmt)
    x = rng.standard_normal((rows, k), dtype=np.float32)
    if fmt == "w4":  # so that torch's bf16 gets the same numbers
        x = torch.from_numpy(x).bfloat16().float().numpy()
    out = np.empty((rows, n), np.float32)
    dtype = torch.float32 if fmt == "f32" else torch.bfloat16
    tw, tx = torch.from_numpy(weight).to(dtype), torch.from_numpy(x).to(dtype)
    ours, theirs = [], []
    with torch.inference_mode():
        want = torch.nn.functional.linear(tx.float(), tw.float()).numpy()
        ops.linear(stream, x, packed, out=out)
        assert np.abs(out - want).max() < 1e-3 * np.abs(want).max(), "the results differ"
        for _ in range(rounds):
            ours.append(timed(lambda: ops.linear(stream, x, packed, out=out)))
            theirs.append(timed(lambda: torch.nn.functional.linear(tx, tw)))
    ratio = statistics.median(t / o for o, t in zip(ours, theirs, strict=True))
    return statistics.median(ours) * 1e6, statistics.median(theirs) * 1e6, ratio


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16, 64, 256])
    parser.add_argument("--format", choices=["bf16", "w4", "f32"], default="bf16")
    parser.add_argument("--json", help="write the cases to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stream = ops.Stream(args.threads)
    cases = []
    print(f"{'case':32}{'ours us':>12}{'torch us':>12}{'torch/ours':>12}")
    for name, n, k in SHAPES:
        for rows in args.rows:
            ours, theirs, ratio = compare(stream, n, k, rows, args.format, args.rounds)
            case = f"{name} {args.format} M={rows}"
            print(f"{case:32}{ours:12.1f}{theirs:12.1f}{ratio:12.2f}", flush=True)
            cases.append({"name": case, "ours_us": ours, "torch_us": theirs, "ratio": ratio})
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"threads": args.threads, "torch": torch.__version__, "cases": cases}, file)


if __name__ == "__main__":
    main()
