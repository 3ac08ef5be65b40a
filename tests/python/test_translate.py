import json
import shutil

import pytest
from dream_r import inspection
from dream_r.checkpoint import resolve
from dream_r.tokens import Tokens
from dream_r.translate import Translator, characters

TEXT = "Row 1: a red circle, b <empty>.\n\nhéllo ☃ 中文\n\n\n  x positive"


@pytest.fixture
def whole(checkpoint_folder):
    return Tokens(resolve(checkpoint_folder))


@pytest.fixture
def bytes_only(checkpoint_folder, tmp_path):
    """A tokenizer without the words: every id after the bytes is another one."""
    folder = shutil.copytree(checkpoint_folder, tmp_path / "bytes")
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    words = [piece for piece in vocabulary if len(piece) > 1]
    for word in words:
        del vocabulary[word]
    for added in content["added_tokens"]:
        added["id"] -= len(words)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return Tokens(resolve(folder))


def spelled(tokens, ids):
    return b"".join(map(tokens.spelled, ids))


def test_the_text_stays_and_its_ids_are_the_others(whole, bytes_only):
    ids = whole.encode(TEXT)
    there = Translator(whole, bytes_only).step(ids)
    assert there == bytes_only.encode(TEXT) != ids
    assert spelled(bytes_only, there) == TEXT.encode()
    assert Translator(bytes_only, whole).step(there) == ids
    assert Translator(whole, bytes_only).step([]) == []


def test_added_tokens_go_by_name(whole, bytes_only):
    ids = [*whole.encode("a.\n\n"), whole.think_end]
    there = Translator(whole, bytes_only).step(ids)
    assert there[-1] == bytes_only.think_end != whole.think_end
    assert there.count(bytes_only.think_end) == 1
    assert Translator(whole, bytes_only).step([whole.id("<|im_end|>")]) == [
        bytes_only.id("<|im_end|>")
    ]


@pytest.mark.parametrize("name", ["</think>", "<|im_end|>", "<|image_pad|>"])
def test_text_that_looks_like_a_token_is_none(whole, bytes_only, name):
    ids = whole.byte_ids(f"a {name}{name} b".encode())
    there = Translator(whole, bytes_only).step(ids)
    assert spelled(bytes_only, there) == f"a {name}{name} b".encode()
    assert bytes_only.id(name) not in there


def test_a_special_token_that_the_other_has_not_is_left_out(whole, bytes_only, monkeypatch):
    monkeypatch.setattr(bytes_only, "id", lambda name: None)
    ids = [*whole.encode("ab"), whole.id("<|im_end|>"), whole.think_end]
    assert Translator(whole, bytes_only).step(ids) == bytes_only.encode("ab") + [
        i for c in "</think>" for i in bytes_only.encode(c)
    ]


def test_a_character_cut_in_two_keeps_its_bytes(whole, bytes_only):
    cut = "é☃".encode()[:-1]
    ids = whole.byte_ids(b"\x83" + cut)
    assert spelled(bytes_only, Translator(whole, bytes_only).step(ids)) == b"\x83" + cut
    assert characters(b"\x83a" + cut) == [
        (b"\x83", False),
        ("aé".encode(), True),
        (cut[2:], False),
    ]


def test_bytes_that_a_vocabulary_cannot_spell(whole, tmp_path, checkpoint_folder):
    from tokenizers import Tokenizer, decoders, models

    folder = shutil.copytree(checkpoint_folder, tmp_path / "plain")
    vocab = {"<unk>": 0, "a": 1, "<0x83>": 2}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.ByteFallback()])
    made.save(str(folder / "tokenizer.json"))
    plain = Tokens(resolve(folder))
    assert Translator(whole, plain).step(whole.byte_ids(b"a\x83\x84a")) == [1, 2, 1]


def test_such_a_pair_fits(checkpoint_folder, bytes_only):
    found = inspection.pair(resolve(checkpoint_folder), bytes_only._checkpoint)
    assert (found.same_tokenizer, found.problem) == (False, None)
