"""The trained pair: equal to transformers' own model, and good at what it was trained for."""

import numpy as np
import pytest
from dream_r import pocket
from dream_r.pocket.problems import problem

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from train.pocket.data import Mix, collate, encode, patchify, prompt_ids, same_size  # noqa: E402
from train.pocket.decode import Decoder, ends, text_of  # noqa: E402
from train.pocket.evaluate import alone, groups, load, speculate  # noqa: E402
from train.pocket.model import PocketModel, Tree  # noqa: E402
from train.pocket.shapes import SHAPES  # noqa: E402


@pytest.fixture(scope="module", params=["target", "draft"])
def role(request):
    if not (pocket.path(request.param) / "model.safetensors").exists():
        pytest.skip("the pair has not been exported")
    return request.param


def test_logits_equal_transformers(role):
    theirs = transformers.Qwen3VLForConditionalGeneration.from_pretrained(
        pocket.path(role), dtype=torch.float32
    ).eval()
    ours = load(role)
    for level in (1, 3):
        p = problem(5, level, split="held-out")
        patches = patchify(np.asarray(p.image))
        ids = [*prompt_ids(p.question, len(patches) // 4)]
        more = encode("".join(p.steps[:3]))
        full = torch.tensor([[*ids, *more]])
        height, width = p.image.height // 16, p.image.width // 16
        with torch.no_grad():
            expected = theirs(
                input_ids=full,
                pixel_values=torch.from_numpy(patches),
                image_grid_thw=torch.tensor([[1, height, width]]),
                mm_token_type_ids=(full == theirs.config.image_token_id).int(),
            ).logits[0]
            decoder = Decoder(ours, [p])
            first, rest = decoder.ahead, ours.logits(decoder.feed([more]))[0]
        torch.testing.assert_close(first[0], expected[len(ids) - 1], atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(rest, expected[len(ids) :], atol=2e-4, rtol=1e-4)


def test_greedy_outputs_make_sense():
    if not (pocket.path("target") / "model.safetensors").exists():
        pytest.skip("the pair has not been exported")
    target, draft = load("target"), load("draft")
    problems = groups(1, 24, "held-out", 24)[0]
    traces = alone(target, problems)
    assert sum(t.solved for t in traces) >= 23
    both = speculate(target, draft, problems, 0.7)
    assert sum(t.solved for t in both) >= 23 and sum(t.accepted for t in both) > 24
    with_nothing_accepted = speculate(target, draft, problems, 1.0)
    assert [t.steps for t in with_nothing_accepted] == [t.steps for t in traces]


def test_rolling_back_leaves_no_trace():
    torch.manual_seed(0)
    model = PocketModel(SHAPES["draft"]).eval()
    p = problem(1, 1)
    plain, busy = Decoder(model, [p]), Decoder(model, [p])
    mark = busy.mark()
    busy.judge([list(encode(p.steps[1]))])
    busy.back(mark, [True])
    step = plain.write([True], ends(), limit=12)
    assert text_of(busy.write([True], ends(), limit=12)[0]) == text_of(step[0])


def test_fused_training_kernels_equal_plain_pytorch():
    torch.manual_seed(0)
    model = PocketModel(SHAPES["draft"])
    batch = collate(same_size(range(3), 1), np.random.default_rng(0), Mix())
    dense = batch.mask.dense(torch.float32)[:, 0, 0] == 0
    results = []
    for mask in (batch.mask, dense):
        assert isinstance(mask, Tree) == (mask is batch.mask)
        model.zero_grad()
        states = model(
            batch.ids, batch.positions, mask, model.see(batch.patches, batch.grid), batch.image_at
        )
        states[-1].square().mean().backward()
        results.append(
            (
                states[-1].detach(),
                [p.grad.clone() for p in model.parameters() if p.grad is not None],
            )
        )
    (a, da), (b, db) = results
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    for x, y in zip(da, db, strict=True):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-2)


def test_branches_see_their_own_words_and_the_trunk_before_them():
    batch = collate(same_size(range(2), 1), np.random.default_rng(0), Mix())
    sees = batch.mask.dense(torch.float32)[:, 0, 0] == 0
    for row in range(len(sees)):
        asked = (batch.judged[row] >= 0).nonzero()[:, 0]
        assert len(asked) >= 6
        for column in asked.tolist():
            anchor = int(batch.mask.anchor[row, column])
            seen = sees[row, column].nonzero()[:, 0].tolist()
            assert seen == [*range(anchor + 1), *range(int(batch.mask.lo[row, column]), column + 1)]
