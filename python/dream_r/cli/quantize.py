"""dream-r quantize: a 4-bit copy of a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from dream_r.checkpoint import resolve


def run(arguments: argparse.Namespace) -> int:
    if arguments.samples < 1:
        raise ValueError(f"--samples must be at least 1, not {arguments.samples}")
    checkpoint = resolve(arguments.model)
    try:
        import torch  # noqa: F401
    except ImportError:
        raise ValueError("quantize needs torch: pip install 'dream-r[quantize]'") from None
    from rich.console import Console
    from rich.progress import Progress

    from dream_r.quantize import calibration, layers_of, quantize

    if arguments.calibration:
        file = Path(arguments.calibration).expanduser()
        samples = calibration.read(file)[: arguments.samples]
    else:
        samples = calibration.default(checkpoint, arguments.samples)
    out = Path(arguments.out).expanduser()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {
            "prompt": bar.add_task("reading prompts", total=len(samples)),
            "layer": bar.add_task("quantising layers", total=layers_of(checkpoint)),
        }
        group = quantize(
            checkpoint,
            out,
            samples,
            arguments.group,
            arguments.force,
            lambda what: bar.advance(tasks[what]),
        )
    if group != arguments.group:
        print(f"groups of {group}: {arguments.group} does not divide every matrix of this model")
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    print(f"{out}: {size / 1e6:.1f} MB, 4 bits in groups of {group}, {len(samples)} prompts seen")
    return 0
