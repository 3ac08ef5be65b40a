"""Train the pocket pair from a seed.

    python -m train.pocket                        every stage in turn; run again to go on
    python -m train.pocket --stages draft         one stage
    python -m train.pocket --scale 0.003          a rehearsal of all of it, in a minute
    python -m train.pocket.evaluate               measure the shipped pair

The stages are: target (see, solve, judge), draft (see, solve, stop early), made (collect the
draft's wrong steps), judge (the target learns on those too), polish (sums, conclusions and the
judge's mistakes once more, gently), doubt (its judge sees steps that are nearly right),
export (write the model folders into the package). On two
quiet CPU cores all of it takes two hours or so.

A file called PAUSE in the run folder makes training sleep until it is gone; Ctrl-C or SIGTERM
saves first. log.jsonl in each stage's folder holds the curves.
"""

import argparse
import os
from pathlib import Path

# Large blocks are returned to the heap and reused: fresh pages cost a quarter of the time here.
HEAP = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "16000000000",
    "MALLOC_TOP_PAD_": "268435456",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train.pocket",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/pocket"), help="folder of the run")
    parser.add_argument("--stages", nargs="+", help="which stages, in this order (default: all)")
    parser.add_argument("--seed", type=int, help="seed of weights and problems (default: shipped)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the steps; below 1 nothing is shipped"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if not 0 < args.scale <= 1:
        parser.error("--scale must be above 0 and at most 1")
    if "MALLOC_TOP_PAD_" not in os.environ:  # the allocator reads these when a process starts
        import sys

        os.environ.update(HEAP)
        os.execv(sys.executable, [sys.executable, "-m", "train.pocket", *sys.argv[1:]])
    import torch

    from train.pocket.recipe import STAGES, stage

    torch.set_num_threads(args.threads)
    for name in args.stages or STAGES:
        if name not in STAGES:
            parser.error(f"no stage {name!r}; there are {', '.join(STAGES)}")
        print(f"== {name}", flush=True)
        stage(name, args.out, args.seed, args.scale)


if __name__ == "__main__":
    main()
