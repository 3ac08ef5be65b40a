import json
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from dream_r.engine import Span
from dream_r.timeline import bars, chrome_trace, svg, write_svg, write_trace

SPANS = [
    Span("target", "prefill", 1, 0, 0.00, 0.02),
    Span("draft", "prefill", 1, 0, 0.00, 0.01),
    Span("draft", "step", 1, 0, 0.02, 0.03),
    Span("verify", "verify", 1, 0, 0.03, 0.04),
    Span("target", "step", 1, 0, 0.02, 0.04),  # beside the draft, not needed
    Span("draft", "step", 1, 1, 0.03, 0.04),
    Span("verify", "verify", 1, 1, 0.04, 0.05),
    Span("draft", "step", 1, 2, 0.04, 0.05),  # from a prefix that fell
    Span("target", "step", 1, 1, 0.04, 0.08),
    Span("target", "cancelled", 1, 2, 0.085, 0.09),
    Span("draft", "step", 1, 2, 0.08, 0.09),
    Span("verify", "verify", 1, 2, 0.09, 0.10),
    Span("target", "answer", 1, 3, 0.10, 0.13),
    Span("draft", "step", 2, 0, 0.0, 0.1),
]
RESULT = SimpleNamespace(
    id=1,
    steps=[
        SimpleNamespace(index=0, author="draft"),
        SimpleNamespace(index=1, author="target"),
        SimpleNamespace(index=2, author="draft"),
    ],
)


@pytest.fixture
def made():
    return bars(SPANS, [RESULT])


def test_every_span_has_its_fate(made):
    fates = {(b.lane, b.step, b.begin): b.kind for b in made}
    assert fates == {
        ("target", 0, 0.00): "prefill",
        ("draft", 0, 0.00): "prefill",
        ("draft", 0, 0.02): "draft",
        ("verify", 0, 0.03): "accept",
        ("target", 0, 0.02): "wasted",
        ("draft", 1, 0.03): "wasted",
        ("verify", 1, 0.04): "reject",
        ("draft", 2, 0.04): "wasted",
        ("target", 1, 0.04): "target",
        ("draft", 2, 0.08): "draft",
        ("target", 2, 0.085): "wasted",
        ("verify", 2, 0.09): "accept",
        ("target", 3, 0.10): "answer",
    }


def test_the_figure_is_well_formed_and_inside_its_frame(made, tmp_path):
    write_svg(tmp_path / "a.svg", made, "red & <blue>")
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    width = float(root.get("width"))
    space = "{http://www.w3.org/2000/svg}"
    places = [(float(r.get("x", 0)), float(r.get("width"))) for r in root.iter(f"{space}rect")]
    assert len(places) > len(made)
    assert all(x >= 0 and x + w <= width + 1 for x, w in places)
    words = " ".join(t.text or "" for t in root.iter(f"{space}text"))
    for word in ("red & <blue>", "draft", "verify", "target", "milliseconds", "thrown away"):
        assert word in words


@pytest.mark.parametrize("length", [1e-5, 3e-4, 0.07, 1.0, 42.0, 900.0])
def test_the_axis_has_a_few_ticks_at_any_scale(length):
    from dream_r.timeline import Bar

    root = ElementTree.fromstring(svg([Bar("target", "target", 1, 0, 5.0, 5.0 + length)], "x"))
    ticks = [
        t
        for t in root.iter("{http://www.w3.org/2000/svg}text")
        if (t.text or "").replace(".", "").replace("e-", "").replace("e+", "").isdigit()
        and t.get("fill") == "#555555"
    ]
    assert 4 <= len(ticks) <= 10


def test_an_empty_run_still_draws():
    ElementTree.fromstring(svg([], "nothing"))


def test_the_trace_opens_in_perfetto(made, tmp_path):
    write_trace(tmp_path / "a.json", made)
    found = json.loads((tmp_path / "a.json").read_text())
    assert found == chrome_trace(made)
    work = [e for e in found["traceEvents"] if e["ph"] == "X"]
    assert len(work) == len(made)
    assert all(e["dur"] >= 0 and {"name", "ts", "pid", "tid", "cat"} <= set(e) for e in work)
