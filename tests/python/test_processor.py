import json
import shutil

import pytest
from dream_r import Request
from dream_r.checkpoint import resolve
from dream_r.messages import normalise, of_request
from dream_r.processor import PairProcessor, Processor
from dream_r.prompt import Digits, Scoring, digit_ids, keywords, load_prompts
from dream_r.tokens import BLANK_LINE, ENDS_LINE, STARTS_LINE, WHITE, Tokens, byte_class
from PIL import Image

TEXT = "Row 1: a red circle, b <empty>.\n\nhéllo ☃ 中文\n\n\n  x"


@pytest.fixture
def tokens(checkpoint_folder):
    return Tokens(resolve(checkpoint_folder))


@pytest.fixture
def own_folder(checkpoint_folder, tmp_path):
    return shutil.copytree(checkpoint_folder, tmp_path / "own")


def test_text_round_trips_whole_and_streamed(tokens):
    ids = tokens.encode(TEXT)
    assert tokens.decode(ids) == TEXT
    stream = tokens.stream()
    pieces = [stream.push([i]) for i in ids]
    assert "".join([*pieces, stream.finish()]) == TEXT
    assert "�" not in "".join(pieces)


def changed(folder, change):
    """The tokens of a folder whose tokenizer.json was changed."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return Tokens(resolve(folder))


def more_added(content):
    last = max(t["id"] for t in content["added_tokens"])
    content["added_tokens"].append(
        {**content["added_tokens"][-1], "id": last + 1, "content": "<x>"}
    )


def merged(content):
    content["model"]["merges"] = [["Ġ", "Ġ"]]


def renumbered(content):
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def one_renamed(content):
    content["added_tokens"][-1]["content"] = "</thought>"


def cut_otherwise(content):
    content["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda content: None, True),
        (more_added, True),
        (merged, False),
        (renumbered, False),
        (one_renamed, False),
        (cut_otherwise, False),
    ],
)
def test_which_tokenizers_are_the_same(tokens, own_folder, change, same):
    other = changed(own_folder, change)
    assert (tokens.same_as(other), other.same_as(tokens)) == (same, same)


def test_classes_come_from_bytes(tokens):
    classes = tokens.classes(300)
    assert classes.shape == (300,)
    for i in range(len(tokens)):
        assert classes[i] == byte_class(tokens.spelled(i)), tokens.spelled(i)
    assert classes[tokens.encode(".\n\n")[0]] == BLANK_LINE | ENDS_LINE
    assert classes[tokens.encode("\n")[0]] == STARTS_LINE | ENDS_LINE | WHITE
    assert classes[tokens.encode("  ")[0]] == WHITE
    assert classes[tokens.encode("x")[0]] == 0


def test_classes_of_a_plain_vocabulary(own_folder):
    from tokenizers import Tokenizer, decoders, models

    vocab = {"<unk>": 0, "▁a": 1, "<0x0A>": 2, "▁▁": 3, "b\n\n": 4, "▁": 5, "</think>": 6}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    made.save(str(own_folder / "tokenizer.json"))
    plain = Tokens(resolve(own_folder))
    newline = STARTS_LINE | ENDS_LINE | WHITE
    assert list(plain.classes(7)) == [0, 0, newline, WHITE, BLANK_LINE | ENDS_LINE, WHITE, 0]
    assert plain.decode([1, 2, 1]) == " a\n a"


def test_ids_that_are_never_sampled(tokens):
    suppressed = set(tokens.suppressed(300))
    assert tokens.id("<|image_pad|>") in suppressed
    assert tokens.id("<|im_start|>") in suppressed
    assert not suppressed & {*tokens.eos, tokens.think_end, tokens.encode("x")[0]}
    assert set(range(len(tokens), 300)) <= suppressed


def test_keywords_are_one_token_each(tokens):
    assert keywords(tokens, Scoring("?", " positive", " negative"), False) == (
        [tokens.id("Ġpositive")],
        [tokens.id("Ġnegative")],
    )
    with pytest.raises(ValueError, match="'good' is 4 tokens"):
        keywords(tokens, Scoring("?", "good", " negative"), False)
    with pytest.raises(ValueError, match="share the token ' positive'"):
        keywords(tokens, Scoring("?", " positive", " positive"), False)


def test_prompts_are_files(checkpoint_folder, own_folder, tmp_path):
    default = load_prompts(resolve(checkpoint_folder))
    assert "{question}" in default.reasoning
    assert default.question(" Why? ").startswith("Why?\n")
    assert len(default.digits.digits) == 10
    (own_folder / "reasoning.txt").write_text("Q: {question}\n")
    (own_folder / "scoring.json").write_text(
        json.dumps({"suffix": "V:", "positive": " positive", "negative": " negative"})
    )
    own = load_prompts(resolve(own_folder))
    assert own.question("a") == "Q: a"
    assert own.digits.digits[0] == (" negative",)  # a judge of two words grades 0 or 9
    assert own.digits.digits[9] == (" positive",)
    assert own.digits.digits[1:9] == ((),) * 8
    mine = tmp_path / "mine.json"
    mine.write_text("[")
    with pytest.raises(ValueError, match=r"mine\.json: not JSON"):
        load_prompts(resolve(own_folder), scoring=mine)
    with pytest.raises(ValueError, match="cannot be read"):
        load_prompts(resolve(own_folder), reasoning=tmp_path / "none.txt")


def test_digits_are_single_tokens(tokens):
    table = digit_ids(tokens, Digits("?", tuple((str(d),) for d in range(10))))
    assert table == [tokens.encode(str(d)) for d in range(10)]
    with pytest.raises(ValueError, match="single token"):
        digit_ids(tokens, Digits("?", (("zero",),)))


def test_the_prompt_is_that_of_transformers(checkpoint_folder):
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast.from_pretrained(checkpoint_folder)
    messages, _ = normalise(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": TEXT}]},
            {"role": "assistant", "content": "One."},
            {"role": "user", "content": "And?"},
        ],
        ["a"],
    )
    processor = Processor(resolve(checkpoint_folder))
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert processor.text(messages) == text
    assert processor.tokens.encode(text) == theirs(text, add_special_tokens=False).input_ids


def test_image_tokens_are_expanded(checkpoint_folder):
    processor = Processor(resolve(checkpoint_folder))
    pictures = [Image.new("RGB", (96, 64)), Image.new("RGB", (128, 128))]
    messages, _ = of_request(
        Request(question="?", images=pictures), load_prompts(resolve(checkpoint_folder))
    )
    made = processor.encode(messages, pictures)
    assert made.pixels.grid == [(1, 4, 6), (1, 8, 8)]
    assert made.image_tokens == 6 + 16 == made.ids.count(processor.image_token)
    assert made.pixels.patches.shape == (24 + 64, 3 * 2 * 16 * 16)


def test_a_pair_shares_work_only_where_settings_agree(checkpoint_folder, own_folder):
    target, twin = resolve(checkpoint_folder), resolve(own_folder)
    pictures = [Image.new("RGB", (128, 128))]
    messages, _ = of_request(Request(question="?", images=pictures), load_prompts(target))
    made, same = PairProcessor(target, twin).encode(messages, pictures)
    assert same is made
    settings = json.loads((own_folder / "preprocessor_config.json").read_text())
    settings["size"]["longest_edge"] = 8192
    (own_folder / "preprocessor_config.json").write_text(json.dumps(settings))
    made, other = PairProcessor(target, resolve(own_folder)).encode(messages, pictures)
    assert (made.image_tokens, other.image_tokens) == (16, 4)


def test_messages_in_both_forms():
    hf = [
        {
            "role": "user",
            "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}],
        }
    ]
    openai = [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "file:///b.png"}},
                {"type": "text", "text": "What?"},
            ],
        }
    ]
    assert normalise(hf)[1] == ["a.png"]
    assert normalise(openai)[1] == ["/b.png"]
    assert normalise(hf)[0] == normalise(openai)[0]
    assert normalise([{"role": "user", "content": "What?"}], ["c.png"])[0] == normalise(hf)[0]


@pytest.mark.parametrize(
    ("messages", "images", "says"),
    [
        ([{"content": "x"}], [], "role"),
        ([{"role": "user", "content": 3}], [], "content"),
        ([{"role": "user", "content": [{"type": "video", "video": "v"}]}], [], "video"),
        ([{"role": "user", "content": [{"type": "image"}, {"text": "x"}]}], [], "no picture"),
        ([{"role": "user", "content": [{"type": "image"}, {"text": "x"}]}], ["a", "b"], "no place"),
        ([{"role": "user", "content": " "}], [], "says nothing"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], [], "last one"),
    ],
)
def test_bad_messages(messages, images, says):
    with pytest.raises(ValueError, match=says):
        normalise(messages, images)


def test_control_tokens_in_a_question_are_refused(checkpoint_folder):
    processor = Processor(resolve(checkpoint_folder))
    with pytest.raises(ValueError, match="control token"):
        processor.text([{"role": "user", "content": "a <|image_pad|> b"}])


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("tokenizer.json", "{", "tokenizer.json is damaged"),
        ("tokenizer.json", None, "no tokenizer.json"),
        ("config.json", None, "no config.json"),
        ("tokenizer_config.json", "{}", "no chat template"),
        ("generation_config.json", "[]", "holds no JSON object"),
    ],
)
def test_a_damaged_folder_names_the_file(own_folder, file, content, says):
    (own_folder / file).unlink()
    if content is not None:
        (own_folder / file).write_text(content)
    with pytest.raises(ValueError, match=says):
        _ = Processor(resolve(own_folder)).tokens.eos


@pytest.mark.parametrize(
    ("name", "says"),
    [("nowhere", "no such folder"), ("no/where/here", "no such folder")],
)
def test_unknown_models(name, says):
    with pytest.raises(ValueError, match=says):
        resolve(name)
