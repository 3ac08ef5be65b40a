"""Loading a checkpoint: GB/s from the page cache, and peak memory against the weights.

A random model of true shape is written to a temporary folder once (bf16 or fp16, in shards). Every
load is a process of its own, so that its peak memory is its own; what the interpreter and the
imports take is measured before and left out.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# hidden, query heads, ffn of the text model: 28 layers, 8 KV heads of 128, tied head
SHAPES = {"0.6B": (1024, 16, 3072), "2B": (2048, 16, 6144)}
ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
VISION = {"depth": 2, "hidden_size": 256, "intermediate_size": 512, "num_heads": 4}


def write(folder, shape, dtype):
    """A Qwen3-VL of random weights with a small tower, in shards of 500 MB."""
    import torch  # here, so that the measured process is without it
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    hidden, heads, ffn = shape
    text = {
        "vocab_size": 151_936,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": 28,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_parameters": ROPE,
    }
    tower = {**VISION, "out_hidden_size": hidden, "deepstack_visual_indexes": [0]}
    config = Qwen3VLConfig(text_config=text, vision_config=tower, tie_word_embeddings=True)
    made = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    model = Qwen3VLForConditionalGeneration._from_config(config, dtype=made)
    model.save_pretrained(folder, max_shard_size="500MB")


def memory(field):
    """Bytes of this process: VmRSS now, VmHWM at its peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def load_once(folder, dtype, threads):
    """In a process of its own: seconds, bytes of weights, peak bytes beyond the interpreter's."""
    from dream_r import _core

    before = memory("VmRSS")
    start = time.perf_counter()
    model = _core.load_model(folder, dtype, threads)
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, model.weight_bytes, memory("VmHWM") - before]))


def measure(folder, dtype, threads, rounds):
    size = 0
    for file in folder.glob("*.safetensors"):
        size += len(file.read_bytes())  # into the page cache
    runs = []
    for _ in range(rounds):
        command = [sys.executable, __file__, "--once", str(folder)]
        command += ["--dtype", dtype, "--threads", str(threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(done.stdout))
    rates = [size / seconds / 1e9 for seconds, _, _ in runs]
    peaks = [peak / weights for _, weights, peak in runs]
    return size, rates, peaks


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--format", choices=["bf16", "fp16"], default="bf16", help="in the files")
    parser.add_argument("--dtype", choices=["bf16", "i16", "f32"], default="bf16", help="in memory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--once", help=argparse.SUPPRESS)  # a folder: the measured process itself
    args = parser.parse_args()
    if args.once:
        return load_once(args.once, args.dtype, args.threads)
    for name in args.shapes:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            write(folder, SHAPES[name], args.format)
            size, rates, peaks = measure(folder, args.dtype, args.threads, args.rounds)
        print(
            f"{name} {args.format} as {args.dtype}, {size / 1e9:.2f} GB: "
            f"load {statistics.median(rates):.2f} GB/s "
            f"[{min(rates):.2f}, {max(rates):.2f}], peak memory {statistics.median(peaks):.2f} of "
            f"the weights [{min(peaks):.2f}, {max(peaks):.2f}]"
        )


if __name__ == "__main__":
    main()
