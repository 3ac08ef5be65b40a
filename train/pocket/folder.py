"""Everything of a model folder except its weights: tokenizer, template, processor, prompts."""

import json
from pathlib import Path

from dream_r.pocket import words
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from train.pocket.shapes import Shape, config

TEMPLATE = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' and loop.last and not add_generation_prompt -%}
{#- a last assistant turn is kept as it is: continue_final_message goes on from it -#}
{%- set keep = true -%}
{%- else -%}
{%- set keep = false -%}
{%- endif -%}
{%- if message.content is string -%}
{%- set text = message.content -%}
{%- if message.role == 'assistant' and not keep and '</think>' in text -%}
{%- set text = text.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{{- text -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'video' or 'video' in part -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n<think>\\n' -}}
{%- endif -%}
"""


def tokenizer() -> Tokenizer:
    """Known words are one token each, anything else is spelled in bytes: all text round-trips."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = [spell.pre_tokenize_str(word)[0][0] for word in words.vocabulary()]
    vocab = {piece: i for i, piece in enumerate([*sorted(letters), *spelled])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    cut = pre_tokenizers.Split(Regex(words.PIECES), behavior="isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([cut, spell])
    made.decoder = decoders.ByteLevel()
    thinking = ("<think>", "</think>")  # shown to readers, so no "special" tokens in Qwen's sense
    for word in words.SPECIAL:
        token = AddedToken(word, special=word not in thinking, normalized=False)
        made.add_special_tokens([token]) if token.special else made.add_tokens([token])
    return made


def special_ids(made: Tokenizer) -> dict[str, int]:
    return {word: made.token_to_id(word) for word in words.SPECIAL}


def write_folder(folder: Path, shape: Shape) -> Tokenizer:
    """Write all small files of a model folder and return its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    made = tokenizer()
    ids = special_ids(made)
    if made.get_vocab_size() > shape.vocab:
        raise ValueError(f"{made.get_vocab_size()} tokens do not fit a vocabulary of {shape.vocab}")
    made.save(str(folder / "tokenizer.json"))
    files = {
        "config.json": config(shape, ids),
        "generation_config.json": {
            "do_sample": False,
            "bos_token_id": ids["<|endoftext|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 4096,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "bos_token": None,
            "unk_token": None,
            "clean_up_tokenization_spaces": False,
            "add_prefix_space": False,
            "chat_template": TEMPLATE,
        },
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessor",
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "do_convert_rgb": True,
            "rescale_factor": 1 / 255,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "patch_size": 16,
            "merge_size": 2,
            "temporal_patch_size": 2,
            "resample": 3,
            "min_pixels": 4096,
            "max_pixels": 65536,
            "size": {"shortest_edge": 4096, "longest_edge": 65536},
        },
        "scoring.json": {
            "suffix": words.SUFFIX,
            "positive": words.POSITIVE,
            "negative": words.NEGATIVE,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "reasoning.txt").write_text("{question}")
    return made
