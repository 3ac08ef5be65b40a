"""What the commands print: colours and alignment on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dream_r.result import AnswerPiece, Step

if TYPE_CHECKING:
    from PIL.Image import Image

    from dream_r.result import Event, Result

STYLES = {"draft": "cyan", "target": "green", "forced": "yellow"}


class Show:
    """Prints a request as it goes on. `grades`: the verdicts are grades 0 to 9, not rho."""

    def __init__(self, console: Console | None = None, grades: bool = False) -> None:
        self.console = console or Console(highlight=False)
        self._grades = grades
        self._answering = False

    def line(self, text: str = "", style: str = "") -> None:
        self.console.print(Text(text, style), soft_wrap=True)

    def event(self, event: Event) -> None:
        """Whatever a stream yields."""
        if isinstance(event, Step):
            self.step(event)
        elif isinstance(event, AnswerPiece):
            self.answer(event)
        else:
            self.done(event.result)

    def step(self, step: Step) -> None:
        """A committed step: who wrote it, the verdict, the text."""
        mark = (
            ""
            if step.rho is None
            else (f"grade {step.rho:.1f}" if self._grades else f"rho {step.rho:.2f}")
        )
        text = step.text.replace("</think>", "(thinking ends)").strip() or "(blank)"
        if step.truncated:
            text += " [cut off]"
        if not self.console.is_terminal:
            self.line(f"[{step.author}{' ' * bool(mark)}{mark}] {' '.join(text.split())}")
            return
        row = Table.grid(padding=(0, 1))
        row.add_column(width=6)
        row.add_column(width=9)
        row.add_column(overflow="fold")
        style = STYLES.get(step.author, "")
        row.add_row(Text(step.author, style), Text(mark, "dim"), Text(text))
        self.console.print(row)

    def answer(self, piece: AnswerPiece) -> None:
        """More of the answer, on the same line."""
        text = piece.text if self._answering else piece.text.lstrip()
        if text:
            self._answering = True
            self.console.print(Text(text, "bold"), end="", soft_wrap=True)

    def done(self, result: Result) -> None:
        """How it went, in one line of figures."""
        if self._answering:
            self.console.print()
            self._answering = False
        self.line(summary(result), "dim")

    def picture(self, picture: Image, width: int = 40) -> None:
        """A small preview in half blocks, where the terminal has the colours for it."""
        if not self.console.is_terminal or self.console.color_system not in ("256", "truecolor"):
            return
        height = max(2, round(picture.height * width / picture.width / 2) * 2)
        pixels = np.asarray(picture.convert("RGB").resize((width, height))).tolist()
        for y in range(0, height, 2):
            row = Text("  ")
            for x in range(width):
                upper, lower = ("rgb({},{},{})".format(*pixels[y + dy][x]) for dy in (0, 1))
                row.append("▀", f"{upper} on {lower}")
            self.console.print(row)


def summary(result: Result) -> str:
    """One line: steps, acceptance, tokens, time, and how it ended if not as usual."""
    metrics = result.metrics
    drafted = sum(step.author == "draft" for step in result.steps)
    parts = [f"{len(result.steps)} steps"]
    if metrics.acceptance is not None:
        parts[0] += f", {drafted} by the draft"
        parts.append(f"acceptance {metrics.acceptance:.2f}")
    parts.append(f"{result.usage.completion_tokens} tokens")
    if metrics.seconds:
        rate = result.usage.completion_tokens / metrics.seconds
        parts.append(f"{metrics.seconds:.2f} s ({rate:.0f} tokens/s)")
    if metrics.budget_hit:
        parts.append("thinking budget used up")
    if metrics.degraded:
        parts.append("speculation shed for lack of memory")
    if result.finish_reason != "stop":
        parts.append(result.finish_reason)
    return " · ".join(parts)
