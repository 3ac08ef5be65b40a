"""From messages and pictures to what one model reads: token ids, patches and grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from dream_r.checkpoint import Checkpoint
from dream_r.images import ImageSettings
from dream_r.messages import Message, texts
from dream_r.template import ChatTemplate
from dream_r.tiles import TileSettings
from dream_r.tokens import Tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Pixels:
    """Patches of all pictures of a prompt, f32 [N, D], and each picture's grid.

    A grid is (t, h, w) in patches; of R-4B it is (tiles, height, width).
    """

    patches: NDArray[np.float32] | None
    grid: list[Grid]


@dataclass(frozen=True)
class ModelInput:
    """What one model reads of a prompt; `ids` has one image token per visual token."""

    ids: list[int]
    pixels: Pixels
    image_tokens: int


class Processor:
    """Tokenizer, chat template and picture settings of one checkpoint, composed."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.tokens = Tokens(checkpoint)
        self.template = ChatTemplate(checkpoint)

    @cached_property
    def images(self) -> ImageSettings | TileSettings:
        if not self.checkpoint.has_vision:
            raise ValueError(f"model {self.checkpoint.name} reads no pictures")
        tiled = "image_grid_pinpoints" in self.checkpoint.config
        return (TileSettings if tiled else ImageSettings).of(self.checkpoint)

    @cached_property
    def image_token(self) -> int:
        config = self.checkpoint.config
        found = config.get("image_token_id", config.get("image_token_index"))
        return int(found) if found is not None else -1

    def text(self, messages: Sequence[Message]) -> str:
        """The rendered prompt, ending where the model's thinking begins."""
        for said in texts(messages):
            if (word := self.tokens.control_in(said)) is not None:
                raise ValueError(
                    f"the text contains {word}, a control token of the model; remove it"
                )
        text = self.template.render(messages)
        return text if text.rstrip().endswith("<think>") else f"{text}<think>\n"

    def cut(self, pictures: Sequence[Image]) -> Pixels:
        """The pictures as this model's patches."""
        import numpy as np

        if not pictures:
            return Pixels(None, [])
        made = [self.images.patches(picture) for picture in pictures]
        patches = made[0][0] if len(made) == 1 else np.concatenate([m[0] for m in made])
        return Pixels(patches, [m[1] for m in made])

    def expand(self, text: str, grid: Sequence[Grid]) -> ModelInput:
        """Ids of a rendered prompt, its image tokens repeated as the grids ask."""
        raw = self.tokens.encode(text)
        places = raw.count(self.image_token)
        if places != len(grid):
            raise ValueError(
                f"model {self.checkpoint.name}: its chat template made {places} "
                f"picture places for {len(grid)} pictures"
            )
        if not grid:
            return ModelInput(raw, Pixels(None, []), 0)
        counts = iter(map(self.images.tokens, grid))
        ids: list[int] = []
        for token in raw:
            ids += [token] * next(counts) if token == self.image_token else [token]
        return ModelInput(ids, Pixels(None, list(grid)), ids.count(self.image_token))

    def encode(self, messages: Sequence[Message], pictures: Sequence[Image]) -> ModelInput:
        text = self.text(messages)
        pixels = self.cut(pictures)
        made = self.expand(text, pixels.grid)
        return ModelInput(made.ids, pixels, made.image_tokens)


class PairProcessor:
    """The processors of target and draft; work is shared where their settings are the same.

    `same_tokens`: they give the same ids to the same text. Else the pair works step by step, the
    text of each step read anew by the other model.
    """

    def __init__(self, target: Checkpoint, draft: Checkpoint | None) -> None:
        self.target = Processor(target)
        self.draft = Processor(draft) if draft is not None else None
        for processor in filter(None, (self.target, self.draft)):
            _ = processor.tokens.think_spelling  # both must know where thinking ends
        self.same_tokens = True
        self._same_text = self._same_pixels = False
        if draft is not None and self.draft is not None:
            self.same_tokens = self.draft.tokens.same_as(self.target.tokens)
            self._same_text = (
                self.same_tokens
                and self.draft.template.source == self.target.template.source
                and self.draft.image_token == self.target.image_token
            )
            self._same_pixels = (
                target.has_vision and draft.has_vision and self.draft.images == self.target.images
            )

    def encode(
        self, messages: Sequence[Message], pictures: Sequence[Image]
    ) -> tuple[ModelInput, ModelInput | None]:
        """What the target and the draft read."""
        made = self.target.encode(messages, pictures)
        if self.draft is None:
            return made, None
        if self._same_text and (self._same_pixels or not pictures):
            return made, made
        if self._same_pixels or not pictures:
            text = self.draft.text(messages)
            other = self.draft.expand(text, made.pixels.grid)
            return made, ModelInput(other.ids, made.pixels, other.image_tokens)
        return made, self.draft.encode(messages, pictures)
