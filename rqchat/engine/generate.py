"""Prefill in chunks and the decode loop over a cache. Both can be stopped between two steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence

import torch
from torch import Tensor

from rqchat.engine.continuation import continued
from rqchat.engine.detokenize import TextWriter
from rqchat.engine.events import PrefillProgress, StopReason, TextDelta, ThoughtDelta
from rqchat.engine.loader import LoadedModel
from rqchat.engine.prefix import CachedPrefix
from rqchat.engine.prompt import ImageSpan, Prompt, PromptWriter
from rqchat.engine.sampling import Sampler

__all__ = ["Generation", "chunk_ends"]


def chunk_ends(
    start: int, total: int, chunk_tokens: int, images: Sequence[ImageSpan], *, stops: Sequence[int]
) -> list[int]:
    """Ends of the chunks that read tokens `start` to `total`; never inside a picture.

    A chunk has at most `chunk_tokens` tokens, or one picture where that is longer. `stops` are
    positions where a chunk has to end.
    """
    ends: list[int] = []
    position = start
    while position < total:
        end = min([position + chunk_tokens, total, *(s for s in stops if s > position)])
        for span in images:
            if span.start < end < span.end:
                end = span.start if span.start > position else span.end
        ends.append(end)
        position = end
    return ends


class Generation:
    """One answer: reads a prompt into the cache, then draws tokens.

    Attributes:
        stop_reason: why it ended; `interrupted` until it did.
        cached_tokens: tokens of the prompt that were in the cache already.
        output_tokens: tokens drawn, thoughts included, the stop token not.
        prefill_s, decode_s: seconds of the two phases so far.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        writer: PromptWriter,
        prefix: CachedPrefix,
        chunk_tokens: int,
        stopped: Callable[[], bool],
    ) -> None:
        self._loaded, self._writer, self._prefix = loaded, writer, prefix
        self._chunk_tokens, self._stopped = chunk_tokens, stopped
        self._text = TextWriter(loaded.tokenizer, writer.control_tokens)
        self.stop_reason: StopReason = "interrupted"
        self.cached_tokens = self.output_tokens = 0
        self.prefill_s = self.decode_s = 0.0
        self._drawn: list[int] = []

    @property
    def answer(self) -> str:
        """The text so far, without thoughts."""
        return self._text.answer.rstrip()

    def begin_with(self, text: str) -> None:
        """The prompt ends with `text`, the beginning of the answer."""
        self._text.begin_with(text, self._writer.text_ids(text))

    def run(
        self, prompt: Prompt, sampler: Sampler, most_tokens: int
    ) -> Iterator[PrefillProgress | TextDelta | ThoughtDelta]:
        """Reads `prompt` and draws at most `most_tokens` tokens.

        After a step that failed it may be called again, and goes on after the tokens drawn so far.
        """
        logits = yield from self._prefill(continued(prompt, self._drawn))
        if logits is not None:
            yield from self._decode(logits, sampler, most_tokens)

    def _prefill(self, prompt: Prompt) -> Generator[PrefillProgress, None, Tensor | None]:
        """Returns the logits [vocabulary] of the last token; None when it was stopped."""
        begun_s = time.perf_counter() - self.prefill_s
        done = self.cached_tokens = self._prefix.reuse(prompt)
        total = len(prompt.token_ids)
        stops = (prompt.content_tokens, prompt.stable_tokens)
        logits = None
        yield PrefillProgress(done, total, self.cached_tokens, 0.0)
        for end in chunk_ends(done, total, self._chunk_tokens, prompt.images, stops=stops):
            if self._stopped():
                return None
            logits = self._read(prompt, done, end)
            self._prefix.extend(prompt.keys[done:end])
            if end in stops:
                self._prefix.mark()
            if end == prompt.content_tokens:
                self._prefix.keep(prompt)
            done = end
            self.prefill_s = time.perf_counter() - begun_s
            yield PrefillProgress(done, total, self.cached_tokens, self.prefill_s)
        return logits

    def _decode(
        self, logits: Tensor, sampler: Sampler, most_tokens: int
    ) -> Iterator[TextDelta | ThoughtDelta]:
        begun_s = time.perf_counter() - self.decode_s
        while not self._stopped():
            token = sampler.draw(logits)
            self.decode_s = time.perf_counter() - begun_s
            if token in self._loaded.stop_ids:
                self.stop_reason = "eos"
                return
            self.output_tokens += 1
            self._drawn.append(token)
            yield from self._text.add(token)
            if sampler.is_over:
                self.stop_reason = "eos"
                return
            if self.output_tokens == most_tokens:
                self.stop_reason = "length"
                return
            logits = self._forward({"input_ids": torch.tensor([[token]])})
            self._prefix.extend((token,))

    def _read(self, prompt: Prompt, start: int, end: int) -> Tensor:
        inputs: dict[str, Tensor] = {}
        spans = [span for span in prompt.images if start <= span.start < end]
        if spans:
            inputs = self._writer.pixels([span.picture for span in spans])
            # The model looks these up by position, so they begin where the sequence does
            inputs["mm_token_type_ids"] = prompt.token_types(end)
        inputs["input_ids"] = torch.tensor([prompt.token_ids[start:end]])
        return self._forward(inputs)

    @torch.no_grad()
    def _forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Runs `inputs` on top of the cache; the logits [vocabulary] of the last token."""
        model = self._loaded.model
        output = model(
            **{name: tensor.to(model.device) for name, tensor in inputs.items()},
            past_key_values=self._prefix.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[0, -1]
        return logits
