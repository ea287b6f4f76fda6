"""From a conversation to token ids, written with the model's own chat template.

What people write never passes through the template: it stands in for every text while the template
runs, and text is tokenized apart, with the control tokens it may spell broken up. So a document
that contains `<turn|>` is a document that contains six characters, not the end of a turn.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os.path
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rqchat.engine.conversation import GivenMessage, Message
from rqchat.engine.foreign import border
from rqchat.engine.generation.chat_template import ChatTemplate
from rqchat.engine.generation.control_tokens import control_tokens
from rqchat.engine.generation.prompt_content import SLOT, Content, stand_in
from rqchat.engine.inputs.pictures import PATCH_PIXELS, Picture, resized_size, soft_token_count
from rqchat.errors import InputError, ModelError

__all__ = ["ImageSpan", "Prompt", "PromptWriter", "continued"]

_IMAGE = "<|image|>"  # what the template writes for a picture, and the soft token itself
_IMAGE_START, _IMAGE_END = "<|image>", "<image|>"
_PIECE_CHARACTERS = 1_000_000
_PIECE = re.compile(f"{SLOT}|{re.escape(_IMAGE)}")


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Where the soft tokens of a picture stand: positions `start` to before `end`."""

    start: int
    end: int
    picture: Picture


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation.

    Attributes:
        token_ids: every token, soft tokens of pictures as the image token.
        keys: like `token_ids`, but soft tokens are negative numbers computed from the picture, so
            that equal keys mean equal content.
        images: spans of the pictures, in order.
        content_tokens: how many tokens there are up to the end of the last document or picture; 0
            without one. Another question about the same things begins with the same tokens.
        stable_tokens: how many tokens stay as they are once the answer has become history.
        names: of the documents and pictures.
        shared_tokens: other places, in rising order, up to which other prompts may be the same.
    """

    token_ids: tuple[int, ...]
    keys: tuple[int, ...]
    images: tuple[ImageSpan, ...]
    content_tokens: int
    stable_tokens: int
    names: tuple[str, ...]
    shared_tokens: tuple[int, ...] = ()

    @property
    def image_tokens(self) -> int:
        """Soft tokens of all pictures."""
        return sum(span.end - span.start for span in self.images)

    def token_types(self, end: int) -> Tensor:
        """`mm_token_type_ids` [1, end] int64: 1 on the soft tokens of pictures."""
        types = torch.zeros(1, end, dtype=torch.long)
        for span in self.images:
            types[0, span.start : span.end] = 1
        return types


def continued(prompt: Prompt, answer_ids: Sequence[int]) -> Prompt:
    """`prompt` followed by the tokens with which the answer begins."""
    return dataclasses.replace(
        prompt,
        token_ids=(*prompt.token_ids, *answer_ids),
        keys=(*prompt.keys, *answer_ids),
    )


class PromptWriter:
    """Writes prompts for one model.

    Attributes:
        control_tokens: ids and spelling of the tokens that structure a conversation.
    """

    def __init__(
        self,
        tokenizer: Any,
        image_processor: Any,
        image_tokens: int | Callable[[int], int],
        *,
        side_patches: int,
        template: ChatTemplate | None = None,
    ) -> None:
        """A writer for one model.

        Args:
            tokenizer: transformers' fast tokenizer, with a chat template.
            image_processor: pillow's variant.
            image_tokens: soft-token budget of a picture, or what makes it of the one it wants.
            side_patches: patches of a side that the image tower knows; 0 without a tower.
            template: the tokenizer's, where it is at hand.

        Raises:
            ModelError: the tokenizer has no usable chat template.
        """
        self._template = template or ChatTemplate(tokenizer)
        self._image_processor = image_processor
        self._image_tokens, self._side_patches = image_tokens, side_patches
        self._backend = tokenizer.backend_tokenizer
        # A tokenizer.json may ask for either, which would cut texts unseen.
        self._backend.no_truncation()
        self._backend.no_padding()
        self.control_tokens = control_tokens(tokenizer)
        self._ids = {spelling: token_id for token_id, spelling in self.control_tokens.items()}
        if not {_IMAGE, _IMAGE_START, _IMAGE_END} <= set(self._ids):
            raise ModelError("its tokenizer lacks Gemma 4's image tokens; download the model again")
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, longest_first)))
        self._encoded: dict[str, list[int]] = {}
        self._longest_token: int | None = None
        # What the template writes for an answer of the past, found by letting it write one.
        probe = [{"role": "user", "content": "x"}]
        answered = [*probe, {"role": "assistant", "content": stand_in(0)}]
        self._reply = self._template.render(answered)[len(self._template.render(probe)) :]

    def write(
        self,
        messages: Sequence[Message | GivenMessage],
        *,
        thinking: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Prompt:
        """The prompt that asks for the next answer to `messages`, which may call `tools`.

        Raises:
            ModelError: the template cannot write this conversation, or knows no tools.
            InputError: the model sees no pictures, or none of a shape that is among them.
        """
        content = Content()
        records = [content.record(message) for message in messages]
        declared = content.tools(tools)
        head = self._template.render(records, declared, enable_thinking=thinking)
        full = self._template.render(
            records, declared, enable_thinking=thinking, add_generation_prompt=True
        )
        if any(tool["function"]["name"] not in head for tool in declared):
            raise ModelError(
                "its chat template knows no tools; take a model that was trained on some"
            )
        tail = full.removeprefix(head)
        # What the template writes before an answer in either case: an asked and a past one
        header = os.path.commonprefix([tail, self._reply])
        draft = _Draft(self, content)
        draft.add_rendered(head)
        draft.add_rendered(header)
        stable_tokens = len(draft.token_ids)
        draft.add_rendered(tail.removeprefix(header))
        draft.check_complete()
        # Only this conversation's texts, or every document ever read would stay in memory.
        self._encoded = draft.encoded
        return Prompt(
            token_ids=tuple(draft.token_ids),
            keys=tuple(draft.keys),
            images=tuple(draft.images),
            content_tokens=draft.content_tokens,
            stable_tokens=stable_tokens,
            names=tuple(content.names),
        )

    def pixels(self, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        """What the model takes for `pictures`.

        Returns:
            `pixel_values` [pictures, patches, 768] float32 in 0..1 and `image_position_ids`
            [pictures, patches, 2] int64 as (x, y), -1 where padded.

        Raises:
            ModelError: the model's image processor is damaged.
        """
        # Sides are computed from the file's, of which `image` may be a fraction
        budgets = [self._budget(picture) for picture in pictures]
        sides = [resized_size(p.width, p.height, b) for p, b in zip(pictures, budgets, strict=True)]
        with border(lambda cause: ModelError(f"its image processor reads no pictures: {cause}")):
            processed = self._image_processor(
                images=[
                    picture.image.resize(size, Image.Resampling.BICUBIC)
                    for picture, size in zip(pictures, sides, strict=True)
                ],
                do_resize=False,
                max_soft_tokens=max(budgets),
                return_tensors="pt",
            )
        return {name: processed[name] for name in ("pixel_values", "image_position_ids")}

    def soft_tokens(self, picture: Picture) -> int:
        """Soft tokens of `picture`, without the two markers.

        Raises:
            InputError: the model sees no pictures, or none of that shape.
        """
        if not self._side_patches:
            raise InputError(f"{picture.name} cannot be used: this model has no image tower")
        budget = self._budget(picture)
        sides = resized_size(picture.width, picture.height, budget)
        if max(sides) > self._side_patches * PATCH_PIXELS:
            raise InputError(
                f"{picture.name} is {picture.width} x {picture.height} pixels, too long and thin"
                f" for this model at {budget} image tokens; crop it, or take fewer"
                " --image-tokens"
            )
        return soft_token_count(picture.width, picture.height, budget)

    def _budget(self, picture: Picture) -> int:
        given = self._image_tokens
        return given if isinstance(given, int) else given(picture.wanted_tokens)

    def template_ids(self, text: str) -> list[int]:
        """Tokens of what the template wrote, control tokens included.

        Raises:
            ModelError: the tokenizer is damaged.
        """
        with border(lambda cause: ModelError(f"its tokenizer cannot read a text: {cause}")):
            return list(self._backend.encode(text, add_special_tokens=False).ids)

    def text_ids(self, text: str) -> list[int]:
        """Tokens of what a person or the model wrote: never a control token."""
        known = self._encoded.get(text)
        if known is not None:
            return known
        ids: list[int] = []
        start = 0
        for spelled in self._spelled.finditer(text):
            # Broken after its first character, a control token is ordinary text
            ids += self._plain_ids(text[start : spelled.start() + 1])
            start = spelled.start() + 1
        return ids + self._plain_ids(text[start:])

    def _plain_ids(self, text: str) -> list[int]:
        """Tokens of a text, at most `_PIECE_CHARACTERS` at a time: the tokenizer takes some hundred
        bytes of memory for each. A piece ends with a line, where there is one."""
        ids: list[int] = []
        start = 0
        while len(text) - start > _PIECE_CHARACTERS:
            line = text.rfind("\n", start, start + _PIECE_CHARACTERS) + 1
            end = line or start + _PIECE_CHARACTERS
            ids += self.template_ids(text[start:end])
            start = end
        return ids + self.template_ids(text[start:])

    def least_tokens(self, characters: int) -> int:
        """What so many characters of a text take, were they all of the longest token there is."""
        if self._longest_token is None:
            self._longest_token = max(map(len, self._backend.get_vocab()))
        return -(-characters // self._longest_token)

    def image_ids(self) -> tuple[int, int, int]:
        """Ids of the marker before a picture, of a soft token, and of the marker after it."""
        return self._ids[_IMAGE_START], self._ids[_IMAGE], self._ids[_IMAGE_END]


class _Draft:
    """A prompt that is being written."""

    def __init__(self, writer: PromptWriter, content: Content) -> None:
        self._writer, self._content = writer, content
        self._written: list[int] = []
        self.content_tokens = 0
        self.token_ids: list[int] = []
        self.keys: list[int] = []
        self.images: list[ImageSpan] = []
        self.encoded: dict[str, list[int]] = {}

    def add_rendered(self, rendered: str) -> None:
        """The template's output, with its slots filled."""
        start = 0
        for slot in _PIECE.finditer(rendered):
            self._add(self._writer.template_ids(rendered[start : slot.start()]))
            if slot[0] == _IMAGE:
                self._add_picture()
            else:
                self._add_text(int(slot[1]))
            start = slot.end()
        self._add(self._writer.template_ids(rendered[start:]))

    def check_complete(self) -> None:
        """Every text and picture was written once, in order."""
        loose = self._content.loose
        fixed = [index for index in self._written if index not in loose]
        whole = sorted(self._written) == list(range(len(self._content.texts)))
        whole = whole and fixed == sorted(fixed)
        if not whole or len(self.images) != len(self._content.pictures):
            raise ModelError(
                "its chat template leaves out or reorders parts of the conversation, so rqchat"
                " cannot use it"
            )

    def _add(self, ids: Sequence[int]) -> None:
        self.token_ids += ids
        self.keys += ids

    def _add_text(self, index: int) -> None:
        text = self._content.texts[index]
        self._written.append(index)
        self.encoded[text] = self._writer.text_ids(text)
        self._add(self.encoded[text])
        if index in self._content.documents:
            self.content_tokens = len(self.token_ids)

    def _add_picture(self) -> None:
        pictures = self._content.pictures
        if len(self.images) == len(pictures):
            return  # `check_complete` will not find it among the pictures
        picture = pictures[len(self.images)]
        count = self._writer.soft_tokens(picture)
        before, soft, after = self._writer.image_ids()
        self._add([before])
        start = len(self.token_ids)
        self.images.append(ImageSpan(start, start + count, picture))
        self.token_ids += [soft] * count
        self.keys += [_fingerprint(picture)] * count
        self._add([after])
        self.content_tokens = len(self.token_ids)


def _fingerprint(picture: Picture) -> int:
    """A negative number computed from the pixels."""
    # 7 bytes: keys are kept as signed numbers of 64 bits (`cache_folder.py`).
    digest = hashlib.blake2b(picture.image.tobytes(), digest_size=7)
    # The same bytes may be a picture of another shape.
    digest.update(f"{picture.width}x{picture.height}".encode())
    return -1 - int.from_bytes(digest.digest(), "big")
