"""dream-r generate: one question, its steps as they are committed, its answer."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from dream_r.cli import INTERRUPTED
from dream_r.cli.options import SAMPLING, engine_config
from dream_r.config import EngineConfig, Request
from dream_r.engine import Engine
from dream_r.result import Result
from dream_r.stream import Stream


def run(arguments: argparse.Namespace) -> int:
    config = engine_config(arguments, trace=arguments.timeline is not None)
    request = _request(arguments)
    if arguments.timeline and not Path(arguments.timeline).expanduser().parent.is_dir():
        raise ValueError(f"--timeline {arguments.timeline}: there is no such folder")
    _read_pictures_early(request)
    with Engine.from_config(config) as engine:
        if request.n > 1 or arguments.json:
            result, interrupted = _quietly(engine, request)
        else:
            result, interrupted = _aloud(engine, request, config)
        if arguments.json:
            print(json.dumps(result.to_dict(), ensure_ascii=False, indent=2))
        elif request.n > 1:
            for i, sample in enumerate(result.samples):
                print(f"sample {i}: {sample.answer}")
        if arguments.timeline:
            _timeline(engine, result, config, arguments.timeline)
    return INTERRUPTED if interrupted else 0


def _request(arguments: argparse.Namespace) -> Request:
    given: dict[str, Any] = {name: getattr(arguments, name) for name in SAMPLING}
    if arguments.messages is not None:
        try:
            given["messages"] = json.loads(Path(arguments.messages).read_bytes())
        except OSError as error:
            raise ValueError(f"{arguments.messages}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{arguments.messages}: not JSON: {error}") from None
        if not isinstance(given["messages"], list):
            raise ValueError(f"{arguments.messages}: must be a JSON list of messages")
    elif arguments.question is None:
        raise ValueError('give a question: dream-r generate --image board.png "How many ...?"')
    return Request(
        question=arguments.question, images=arguments.image, stop=arguments.stop, **given
    )


def _read_pictures_early(request: Request) -> None:
    """A bad picture is told before a large model is loaded."""
    from dream_r.images import load_picture

    for source in request.images:
        load_picture(source)


@contextmanager
def cancelling(stream: Stream) -> Iterator[list[bool]]:
    """While inside, the first Ctrl-C cancels the stream and adds True to the list; the second
    interrupts as usual."""
    pressed: list[bool] = []

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        pressed.append(True)
        stream.cancel()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _aloud(engine: Engine, request: Request, config: EngineConfig) -> tuple[Result, bool]:
    from dream_r.cli.show import Show

    show = Show(grades=config.method == "specreason")
    stream = engine.submit(request)
    with cancelling(stream) as pressed:
        for event in stream:
            show.event(event)
    assert stream.result is not None
    return stream.result, bool(pressed)


def _quietly(engine: Engine, request: Request) -> tuple[Result, bool]:
    if request.n > 1:
        return engine.generate_many([request])[0], False
    stream = engine.submit(request)
    with cancelling(stream) as pressed:
        result = stream.finish()
    return result, bool(pressed)


def _timeline(engine: Engine, result: Result, config: EngineConfig, name: str) -> None:
    from dream_r.timeline import bars, write_svg, write_trace

    made = bars(engine.trace(), result.samples)
    base = Path(name).expanduser()
    write_svg(base.with_name(f"{base.name}.svg"), made, f"{config.method}, window {config.window}")
    write_trace(base.with_name(f"{base.name}.json"), made)
