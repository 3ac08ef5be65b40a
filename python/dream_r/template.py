"""The checkpoint's chat template, rendered as transformers renders it (jinja2, sandboxed)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from dream_r.checkpoint import Checkpoint

# What the templates of models that can also answer at once call thinking (Qwen3; R-4B).
_THINKING = {"enable_thinking": True, "thinking_mode": "long"}
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # marks for training only


def find_template(checkpoint: Checkpoint) -> str:
    """The template's source, wherever the checkpoint keeps it."""
    if (text := checkpoint.text("chat_template.jinja")) is not None:
        return text
    for file in ("chat_template.json", "tokenizer_config.json"):
        found: Any = (checkpoint.json(file) or {}).get("chat_template")
        if isinstance(found, list):  # named templates
            found = {t.get("name"): t.get("template") for t in found}.get("default")
        if isinstance(found, str):
            return found
    raise ValueError(f"model {checkpoint.name}: the folder has no chat template")


class ChatTemplate:
    """Renders messages to the prompt's text, up to where the assistant's turn begins."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def raise_exception(message: str) -> None:
            raise jinja2.TemplateError(message)

        def tojson(
            value: Any,
            ensure_ascii: bool = False,
            indent: int | None = None,
            separators: Any = None,
            sort_keys: bool = False,
        ) -> str:
            return json.dumps(
                value,
                ensure_ascii=ensure_ascii,
                indent=indent,
                separators=separators,
                sort_keys=sort_keys,
            )

        self.source = find_template(checkpoint)
        self._name = checkpoint.name
        self._error = jinja2.TemplateError
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = tojson
        environment.globals["raise_exception"] = raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(_GENERATION.sub("", self.source))
        except jinja2.TemplateError as error:
            raise ValueError(f"model {self._name}: bad chat template: {error}") from None

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **_THINKING)
        except (self._error, TypeError, AttributeError) as error:
            raise ValueError(
                f"messages: the chat template of model {self._name} refuses them: {error}"
            ) from None
