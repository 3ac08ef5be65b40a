"""Chat messages in the HF and the OpenAI form, brought to one form with their pictures in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dream_r.config import Picture, Request
    from dream_r.prompt import Prompts

Message = dict[str, Any]


def of_request(request: Request, prompts: Prompts) -> tuple[list[Message], list[Picture]]:
    """The messages of a request, each picture a bare {"type": "image"}, and the pictures."""
    if request.messages is not None:
        return normalise(request.messages, request.images)
    parts: list[Message] = [{"type": "image"} for _ in request.images]
    parts.append({"type": "text", "text": prompts.question(request.question or "")})
    return [{"role": "user", "content": parts}], list(request.images)


def normalise(
    messages: Sequence[Mapping[str, Any]], images: Sequence[Picture] = ()
) -> tuple[list[Message], list[Picture]]:
    """Messages in one form, and their pictures in order.

    `images` fill the {"type": "image"} parts that carry no picture, in order; when no part
    waits for one, they go in front of the last user message.
    """
    waiting = list(images)
    pictures: list[Picture] = []
    done: list[Message] = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f"{where} must be a dict with a role and a content")
        content = message.get("content")
        if isinstance(content, str):
            done.append({**message, "content": content})
        elif isinstance(content, Sequence):
            parts = [
                _part(f"{where}.content[{j}]", part, waiting, pictures)
                for j, part in enumerate(content)
            ]
            done.append({**message, "content": parts})
        else:
            raise ValueError(f"{where}: content must be text or a list of parts")
    if done[-1]["role"] != "user":
        raise ValueError("messages: the last one must be from the user")
    if waiting:
        if pictures:
            raise ValueError(
                f"messages: {len(waiting)} of images have no place; give as many "
                '{"type": "image"} parts as images'
            )
        content = done[-1]["content"]
        rest = [{"type": "text", "text": content}] if isinstance(content, str) else content
        done[-1]["content"] = [{"type": "image"} for _ in waiting] + rest
        pictures = waiting
    if not any(_says_something(message) for message in done if message["role"] == "user"):
        raise ValueError("messages: the user says nothing")
    return done, pictures


def _part(where: str, part: object, waiting: list[Picture], pictures: list[Picture]) -> Message:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        raise ValueError(f"{where} must be a dict")
    kind = part.get("type") or next((k for k in ("text", "image", "image_url") if k in part), None)
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image":
        source = next((part[k] for k in ("image", "path", "url") if part.get(k) is not None), None)
        if source is None and waiting:
            source = waiting.pop(0)
        if source is None:
            raise ValueError(f'{where}: no picture; give "image", or pass images=[...]')
        pictures.append(source)
        return {"type": "image"}
    if kind == "image_url":
        target = part.get("image_url")
        source = target.get("url") if isinstance(target, Mapping) else target
        if not isinstance(source, str):
            raise ValueError(f'{where}: image_url must be {{"url": "data:..." or a path}}')
        pictures.append(source.removeprefix("file://"))
        return {"type": "image"}
    raise ValueError(f"{where}: a part must be text, image or image_url, not {kind!r}")


def _says_something(message: Message) -> bool:
    content = message["content"]
    if isinstance(content, str):
        return bool(content.strip())
    return any(part["type"] == "text" and part["text"].strip() for part in content)


def texts(messages: Sequence[Message]) -> list[str]:
    """Every text that people wrote (the assistant's own may hold control tokens)."""
    found = []
    for message in messages:
        if message["role"] != "assistant":
            content = message["content"]
            found += (
                [content]
                if isinstance(content, str)
                else [part["text"] for part in content if part["type"] == "text"]
            )
    return found
