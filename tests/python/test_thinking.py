"""Where thinking ends, with tokenizers that have no token for </think>."""

import json
import random

import dream_r
import pytest
from dream_r import inspection
from dream_r.checkpoint import resolve
from dream_r.thinking import MARK, spelling
from dream_r.tokens import Tokens
from dream_r.translate import Translator
from small_checkpoint import WORDS, write_checkpoint

# Merged with what stands beside it, as a byte-level vocabulary has it.
PIECES = (".</", "</", "think", "</th", "ink", ">\n\n", ">.", "<<", "</think", "/think>", "nk")
# Words of letters, and punctuation with the line ends behind it, as Qwen's tokenizers cut.
CUT = r" ?\p{L}+| ?[^\s\p{L}]+[\r\n]*|\s+"


@pytest.fixture(scope="module")
def whole(checkpoint_folder):
    return Tokens(resolve(checkpoint_folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    at = tmp_path_factory.mktemp("models") / "spelled"
    return write_checkpoint(at, (*WORDS, *PIECES), CUT, added=["<think>"])


@pytest.fixture(scope="module")
def spelled(folder):
    return Tokens(resolve(folder))


def ends(tokens, ids):
    """The token that ends the thinking, as the runtime follows the table."""
    read = 0
    for i, token in enumerate(ids):
        read = tokens.think_spelling.get(token, (0,) * len(MARK))[read]
        if read == len(MARK):
            return i
    return None


def test_a_token_needs_no_spelling(whole):
    assert whole.think_end == whole.id(MARK)
    assert whole.think_spelling == {}


def test_the_table_finds_the_mark_where_the_text_has_it(spelled):
    assert spelled.think_end is None
    # A special token has no text, so none of </think> is lost by it.
    near = [*spelled.think_spelling, *spelled.encode("a. \n"), spelled.id("<|im_end|>")]
    random.seed(0)
    found = 0
    for _ in range(20_000):
        likely = spelled.encode(random.choice(["", "so.", "<"]) + MARK + "\n\n")
        ids = random.choices(near, k=4) + (likely if random.random() < 0.2 else [])
        ids += random.choices(near, k=4)
        text, first = b"", None
        for i, token in enumerate(ids):
            text += spelled.spelled(token)
            if MARK.encode() in text and first is None:
                first = i
        assert ends(spelled, ids) == first
        found += first is not None
    assert 1000 < found < 19_000


@pytest.mark.parametrize("text", ["so.</think>\n\n", "so</think>.", "</think>", "\n</think> a"])
def test_the_spelling_of_real_text_is_found(spelled, text):
    ids = spelled.encode(text)
    at = ends(spelled, ids)
    assert MARK in spelled.decode(ids[: at + 1])
    assert MARK not in spelled.decode(ids[:at])


def test_a_tokenizer_that_cannot_write_it(checkpoint_folder, tmp_path):
    folder = write_checkpoint(tmp_path / "mute", added=["<think>"])
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["<>"] = vocabulary.pop("<")
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="its tokenizer cannot write </think>"):
        spelling(Tokens(resolve(folder)))
    assert "cannot write </think>" in inspection.why_not(resolve(folder))
    assert (
        "cannot write </think>"
        in inspection.pair(resolve(checkpoint_folder), resolve(folder)).problem
    )


def test_such_a_pair_fits_and_is_told_about(checkpoint_folder, folder):
    assert inspection.pair(resolve(checkpoint_folder), resolve(folder)).problem is None
    assert inspection.inspect(resolve(folder)).thinking.endswith("spelled with ordinary tokens")


def test_a_step_that_spells_it_ends_with_the_others_token(whole, spelled):
    ids = spelled.encode("So 4.</think>\n\n")
    assert spelled.spelled(ids[-1]) == b">\n\n"
    assert Translator(spelled, whole).step(ids) == [*whole.encode("So 4."), whole.think_end]
    plain = spelled.encode("So <think>.\n\n")
    assert whole.think_end not in Translator(spelled, whole).step(plain)


def test_a_step_with_the_token_is_spelled_for_the_other(whole, spelled):
    there = Translator(whole, spelled).step([*whole.encode("So 4."), whole.think_end])
    assert there == spelled.encode("So 4.</think>")
    assert ends(spelled, there) == len(there) - 1


def test_between_two_that_spell_it_nothing_stays_behind(spelled):
    there = Translator(spelled, spelled).step(spelled.encode("So 4.</think>\n\n"))
    assert there == spelled.encode("So 4.</think>")


def test_the_runtime_is_told(fake, folder, checkpoint_folder):
    with dream_r.Engine(folder, checkpoint_folder) as engine:
        ours = engine._core.vocabulary
        theirs = engine._core.translation["draft_vocabulary"]
        assert ours.think_end == -1
        assert ours.think_spelling == Tokens(resolve(folder)).think_spelling != {}
        assert ours.forced_end == Tokens(resolve(folder)).encode("</think>\n\n")
        assert (theirs.think_end, theirs.think_spelling) == (
            Tokens(resolve(checkpoint_folder)).think_end,
            {},
        )


def test_what_stands_behind_it_in_its_token_is_the_answer_s(fake, checkpoint_folder):
    fake.script, fake.answer = [("target", None, "One.</think>**")], "5**"
    with dream_r.Engine(checkpoint_folder, checkpoint_folder) as engine:
        r = engine.generate("a")
    assert (r.reasoning, r.answer, r.text) == ("One.", "**5**", "One.</think>**5**")
