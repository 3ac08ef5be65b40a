"""A checkpoint folder with everything but weights: bytes and a few words are its tokens."""

import json
from pathlib import Path

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEMPLATE = """{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.content is string %}{{ m.content }}{% else %}{%- for part in m.content %}
{%- if part.type == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}
{{- '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"""


WORDS = (".\n\n", "\n\n", " positive", " negative", "  ")
CUT = r"\.\n\n|\n\n|\n| ?\p{L}+|  | ?[^\s\p{L}]|\s"


def write_checkpoint(folder: Path, words=WORDS, cut=CUT, added=("<think>", "</think>")) -> Path:
    """A folder with everything but weights: bytes and a few words are the vocabulary.

    `cut`: text is cut into what this matches. `added`: tokens that are no text.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True)
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = [
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(spell.pre_tokenize_str(word)[0][0] for word in words),
    ]
    made = Tokenizer(
        models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[], ignore_merges=True)
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(cut), "isolated"), spell]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    made.add_tokens([AddedToken(w, normalized=False) for w in added])
    made.save(str(folder / "tokenizer.json"))
    files = {
        "config.json": {
            "model_type": "qwen3_vl",
            "vision_config": {},
            "image_token_id": made.token_to_id("<|image_pad|>"),
        },
        "generation_config.json": {
            "do_sample": True,
            "temperature": 0.6,
            "top_k": 20,
            "eos_token_id": [made.token_to_id("<|im_end|>")],
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "chat_template": TEMPLATE,
        },
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessor",
            "patch_size": 16,
            "merge_size": 2,
            "temporal_patch_size": 2,
            "image_mean": [0.5, 0.4, 0.3],
            "image_std": [0.5, 0.6, 0.7],
            "size": {"shortest_edge": 4096, "longest_edge": 65536},
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder
