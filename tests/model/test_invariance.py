"""How work is cut into forwards, rows and threads never changes a bit of the result."""

import numpy as np
import pytest
from cases import NAMES, Runner
from dream_r import _core

row = _core.model.Row


@pytest.fixture(scope="module", params=["f32", "bf16", "i16"])
def ours(request, tiny):
    return _core.model.load(str(tiny.folder), request.param)


@pytest.mark.parametrize("seed", range(8))
def test_chunked_prefill_equals_whole(tiny, ours, seed):
    rng = np.random.default_rng(seed)
    p = tiny.prompt(NAMES[seed % len(NAMES)], seed)
    cuts = rng.choice(np.arange(1, len(p.ids)), size=min(seed + 1, len(p.ids) - 1), replace=False)
    whole = Runner(ours, p).prefill()
    assert np.array_equal(whole, Runner(ours, p).prefill(sorted(cuts.tolist())))


def test_token_by_token_equals_whole(tiny, ours):
    p = tiny.prompt("one image")
    assert np.array_equal(
        Runner(ours, p).prefill(), Runner(ours, p).prefill(list(range(1, len(p.ids))))
    )


def test_threads(tiny, ours):
    p = tiny.prompt("two images")
    one, many = Runner(ours, p), Runner(ours, p, threads=3)
    assert np.array_equal(one.features.embeds, many.features.embeds)
    assert np.array_equal(one.prefill(), many.prefill())


def test_rollback_leaves_no_trace(tiny, ours):
    p = tiny.prompt("one image")
    rng = np.random.default_rng(1)
    junk, more = rng.integers(0, 300, 20).tolist(), rng.integers(0, 300, 5).tolist()
    clean, rolled = Runner(ours, p), Runner(ours, p)
    clean.prefill()
    rolled.prefill()
    rolled.decode(junk)
    rolled.session.truncate(len(p.ids))
    assert np.array_equal(clean.decode(more), rolled.decode(more))


def test_rows_of_a_batch_equal_rows_alone(tiny, ours):
    """Four sequences, some with images, in scattered blocks: prefilled and decoded together."""
    prompts = [tiny.prompt(name, seed=i, text=3 + 8 * i) for i, name in enumerate(NAMES)]
    blocks = np.random.default_rng(0).permutation(40).tolist()
    shared = _core.model.Session(ours, blocks=40)
    alone, rows, tables = [], [], []
    for p in prompts:
        run = Runner(ours, p)
        alone.append(run)
        tables.append([blocks.pop() for _ in range((len(p.ids) + 2 + 15) // 16)])
        rows.append(
            row(
                p.ids,
                run.positions,
                tables[-1],
                0,
                features=run.features,
                feature_rows=run.feature_rows,
            )
        )
    wanted = [(i, len(p.ids) - 1) for i, p in enumerate(prompts)]
    together = shared.forward(rows, wanted)
    for run, logits in zip(alone, together, strict=True):
        assert np.array_equal(run.prefill()[-1], logits)
    rows = [
        row([7 + i], [run.next()], table, len(p.ids))
        for i, (p, run, table) in enumerate(zip(prompts, alone, tables, strict=True))
    ]
    together = shared.forward(rows, [(i, 0) for i in range(4)])
    for i, (run, logits) in enumerate(zip(alone, together, strict=True)):
        assert np.array_equal(run.decode([7 + i])[0], logits)


def test_keyword_logits_are_columns_of_the_full_ones(tiny, ours):
    p = tiny.prompt("text")
    run = Runner(ours, p)
    rows = [row(p.ids, run.positions, [0, 1], 0)]
    wanted = [(0, 8), (0, 2), (0, 2)]
    full = run.session.forward(rows, wanted)
    few = run.session.forward(rows, wanted, keywords=[306, 0, 17])
    assert np.array_equal(full[:, [306, 0, 17]], few)


def test_the_arena_stops_growing(tiny, ours):
    p = tiny.prompt("one image")
    run = Runner(ours, p)
    run.prefill()
    before = run.session.arena_bytes
    run.session.truncate(0)
    run.prefill([7])
    run.decode([1] * 20)
    assert run.session.arena_bytes == before
