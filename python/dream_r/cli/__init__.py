"""The command line: dream-r COMMAND. Errors are one line and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

FAILED, INTERRUPTED = 2, 130  # exit codes


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    from dream_r.cli.options import build_parser

    if hasattr(sys.stdout, "reconfigure"):  # a terminal without UTF-8 must not stop a run
        sys.stdout.reconfigure(errors="replace")
    try:
        arguments = build_parser().parse_args(argv)
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("dream-r: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone; nothing more can be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, RuntimeError, MemoryError, OSError, ImportError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"dream-r: error: {text}", file=sys.stderr)
        return FAILED
