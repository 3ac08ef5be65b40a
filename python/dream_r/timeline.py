"""The lanes over time, as a figure (SVG) and as a trace for Perfetto or chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from dream_r.engine import Span
    from dream_r.result import Result

Kind = Literal["prefill", "draft", "target", "answer", "accept", "reject", "wasted"]
LANES = ("draft", "verify", "target")

# kind -> fill, and what the legend says
KINDS: dict[Kind, tuple[str, str]] = {
    "prefill": ("#b8b2a7", "prompt"),
    "draft": ("#4c78a8", "draft's step, committed"),
    "target": ("#54a24b", "target's step, committed"),
    "accept": ("#72b7b2", "verdict: accepted"),
    "reject": ("#e45756", "verdict: not accepted"),
    "answer": ("#9467bd", "answer"),
    "wasted": ("url(#wasted)", "thrown away"),
}
_LEFT, _RIGHT, _TOP, _ROW, _GAP, _WIDTH = 72, 20, 66, 34, 14, 1100  # pixels
_FONT = 'font-family="Helvetica, Arial, sans-serif"'


@dataclass(frozen=True)
class Bar:
    """One piece of work of a lane, and what became of it. Seconds."""

    lane: str
    kind: Kind
    request: int
    step: int
    begin: float
    end: float


def bars(spans: Sequence[Span], results: Sequence[Result]) -> list[Bar]:
    """The spans of these requests with their fate.

    A lane may work on the same step several times; only its last attempt can have been
    committed, and it was iff the committed step has that author.
    """
    authors = {r.id: {s.index: s.author for s in r.steps} for r in results}
    spans = [s for s in spans if s.request in authors]
    last: dict[tuple[str, int, int], float] = {}
    for s in spans:
        if _stage(s) == "step":
            key = (s.lane, s.request, s.step)
            last[key] = max(last.get(key, s.begin), s.begin)
    made = []
    for s in spans:
        kind: Kind
        if (stage := _stage(s)) != "step":
            kind = stage
        else:
            author = authors[s.request].get(s.step)
            final = s.begin == last[s.lane, s.request, s.step]
            if s.lane == "verify":
                kind = "accept" if author == "draft" and final else "reject"
            elif author == s.lane and final:
                kind = "draft" if author == "draft" else "target"
            else:
                kind = "wasted"
        made.append(Bar(s.lane, kind, s.request, s.step, s.begin, s.end))
    return sorted(made, key=lambda b: (b.begin, b.lane))


def _stage(span: Span) -> Literal["prefill", "answer", "wasted", "step"]:
    if span.name == "prefill":
        return "prefill"
    if span.name == "answer":
        return "answer"
    return "wasted" if span.name == "cancelled" else "step"


def svg(made: Sequence[Bar], title: str) -> str:
    """The figure: a row a lane, time from left to right, step numbers where they fit."""
    begin = min((b.begin for b in made), default=0.0)
    length = max((b.end for b in made), default=1.0) - begin or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / length
    shown = [lane for lane in LANES if any(b.lane == lane for b in made)] or ["target"]
    bottom = _TOP + len(shown) * (_ROW + _GAP)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + 40}" '
        f'width="{_WIDTH}" height="{bottom + 40}" {_FONT} font-size="12">',
        '<defs><pattern id="wasted" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="6" height="6" fill="#eeeeee"/>'
        '<rect width="2" height="6" fill="#bbbbbb"/></pattern></defs>',
        f'<rect width="{_WIDTH}" height="{bottom + 40}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
        *_legend({b.kind for b in made}),
        *_axis(length, scale, bottom),
    ]
    for row, lane in enumerate(shown):
        y = _TOP + row * (_ROW + _GAP)
        out.append(
            f'<text x="{_LEFT - 10}" y="{y + _ROW / 2 + 4}" text-anchor="end" '
            f'font-weight="bold">{lane}</text>'
        )
        out.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y + _ROW}" y2="{y + _ROW}" '
            'stroke="#dddddd"/>'
        )
        for bar in (b for b in made if b.lane == lane):
            out += _bar(bar, _LEFT + (bar.begin - begin) * scale, y, (bar.end - bar.begin) * scale)
    return "\n".join([*out, "</svg>\n"])


def _bar(bar: Bar, x: float, y: float, width: float) -> list[str]:
    what = f"{KINDS[bar.kind][1]}, step {bar.step + 1}, {1e3 * (bar.end - bar.begin):.2f} ms"
    out = [
        f'<rect x="{x:.2f}" y="{y}" width="{max(width, 0.6):.2f}" height="{_ROW}" rx="2" '
        f'fill="{KINDS[bar.kind][0]}" stroke="white" stroke-width="0.5">'
        f"<title>{what}</title></rect>"
    ]
    label = "" if bar.kind in ("prefill", "answer") else str(bar.step + 1)
    if label and width > 7 * len(label) + 5:
        ink = "#777777" if bar.kind == "wasted" else "white"
        out.append(
            f'<text x="{x + width / 2:.2f}" y="{y + _ROW / 2 + 4}" fill="{ink}" '
            f'text-anchor="middle" pointer-events="none">{label}</text>'
        )
    return out


def _legend(kinds: set[Kind]) -> list[str]:
    out, x = [], _LEFT
    for kind, (fill, text) in KINDS.items():
        if kind in kinds:
            out.append(f'<rect x="{x}" y="34" width="14" height="12" rx="2" fill="{fill}"/>')
            out.append(f'<text x="{x + 19}" y="44">{text}</text>')
            x += 34 + int(6.4 * len(text))
    return out


def _axis(length: float, scale: float, bottom: int) -> list[str]:
    raw = length / 8
    size = 10 ** len(str(int(raw * 1e6))) / 1e7  # the power of ten at or below `raw`
    tick = next(m * size for m in (1, 2, 5, 10, 20) if m * size >= raw)
    out, t = [], 0.0
    while t <= length * 1.0001:
        x = _LEFT + t * scale
        out.append(
            f'<line x1="{x:.2f}" x2="{x:.2f}" y1="{_TOP - 6}" y2="{bottom}" stroke="#eeeeee"/>'
        )
        out.append(
            f'<text x="{x:.2f}" y="{bottom + 14}" text-anchor="middle" fill="#555555">'
            f"{1e3 * t:g}</text>"
        )
        t = round(t + tick, 9)
    out.append(
        f'<text x="{_WIDTH - _RIGHT}" y="{bottom + 31}" text-anchor="end" fill="#555555">'
        "milliseconds; numbers in bars are steps</text>"
    )
    return out


def chrome_trace(made: Sequence[Bar]) -> dict[str, list[dict[str, object]]]:
    """The trace-event form that ui.perfetto.dev and chrome://tracing open; a process a request."""
    events: list[dict[str, object]] = []
    for request in sorted({b.request for b in made}):
        events.append(
            {
                "ph": "M",
                "name": "process_name",
                "pid": request,
                "tid": 0,
                "args": {"name": f"request {request}"},
            }
        )
        events += [
            {"ph": "M", "name": "thread_name", "pid": request, "tid": tid, "args": {"name": lane}}
            for tid, lane in enumerate(LANES)
        ]
    for b in made:
        name = b.kind if b.kind in ("prefill", "answer") else f"step {b.step + 1}"
        events.append(
            {
                "ph": "X",
                "name": name,
                "cat": b.kind,
                "pid": b.request,
                "tid": LANES.index(b.lane) if b.lane in LANES else len(LANES),
                "ts": round(b.begin * 1e6, 3),
                "dur": round((b.end - b.begin) * 1e6, 3),
                "args": {"lane": b.lane, "fate": b.kind, "step": b.step + 1},
            }
        )
    return {"traceEvents": events}


def write_svg(path: Path, made: Sequence[Bar], title: str) -> None:
    path.write_text(svg(made, title), encoding="utf-8")


def write_trace(path: Path, made: Sequence[Bar]) -> None:
    path.write_text(json.dumps(chrome_trace(made)), encoding="utf-8")
