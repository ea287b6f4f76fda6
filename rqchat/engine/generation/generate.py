"""Prefill in chunks and the decode loop over a cache. Both can be stopped between two steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rotorquant import StepGraph
from rotorquant.exceptions import CaptureError
from rotorquant.layers.pending_scalar import PendingScalar
from rotorquant.one_device import send
from rotorquant.step_graph import CudaRecorder, Recorder
from rqchat.engine.events import Event, Notice, PrefillProgress, StopReason, ToolRequest
from rqchat.engine.generation.cached_prefix import CachedPrefix
from rqchat.engine.generation.prompt import ImageSpan, Prompt, PromptWriter, continued
from rqchat.engine.generation.repetition import LoopGuard
from rqchat.engine.generation.sampling import Sampler
from rqchat.engine.generation.text_stream import TextWriter
from rqchat.engine.loading.loader import LoadedModel
from rqchat.engine.settings import DEFAULT_IMAGE_TOKENS

__all__ = ["Generation", "Steps", "chunk_ends", "recorder_for"]


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


class Steps:
    """How steps of one token run: as replays of a captured one, or as they are.

    Attributes:
        ahead: whether a step is queued without waiting, so that its token can be read meanwhile.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        """`recorder` captures; None where nothing can."""
        self._recorder, self.ahead = recorder, recorder is not None
        self._trouble = ""

    def over(
        self, forward: Callable[[Tensor, Tensor | None], Tensor], cache: Any
    ) -> Callable[[Tensor], Tensor]:
        """What turns tokens [1, 1] into logits [1, vocabulary] for one answer.

        A graph lives as long, and takes no memory while a prompt is read.
        """
        if self._recorder is None:
            return lambda tokens: forward(tokens, None)
        graph = StepGraph(forward, cache, self._recorder)

        def step(tokens: Tensor) -> Tensor:
            if self._recorder is not None:
                try:
                    return graph(tokens)
                except CaptureError as error:
                    self._recorder = None
                    self._trouble = f"tokens come slower here, without a CUDA graph: {error}"
            return forward(tokens, None)

        return step

    def troubles(self) -> Iterator[Notice]:
        """What went wrong, once."""
        if self._trouble:
            yield Notice(self._trouble)
        self._trouble = ""


def recorder_for(device: torch.device) -> Recorder | None:
    """What captures steps on `device`: CUDA, or ROCm, which calls itself CUDA."""
    return CudaRecorder() if device.type == "cuda" else None


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
        stopped: Callable[[], bool],
        steps: Steps,
    ) -> None:
        self._loaded, self._writer, self._prefix = loaded, writer, prefix
        self._stopped, self._steps = stopped, steps
        self._text = TextWriter(loaded.tokenizer, writer.control_tokens)
        self.stop_reason: StopReason = "interrupted"
        self.cached_tokens = self.output_tokens = 0
        self.prefill_s = self.decode_s = 0.0
        self._drawn: list[int] = []
        self._guard = LoopGuard()

    @property
    def answer(self) -> str:
        """The text so far, without thoughts."""
        return self._text.answer.rstrip()

    def begin_with(self, text: str) -> None:
        """The prompt ends with `text`, the beginning of the answer."""
        self._text.begin_with(text, self._writer.text_ids(text))

    def expect_calls(self) -> None:
        """The prompt declares tools, so that the answer may call some."""
        self._text.takes_calls = True

    def run(
        self, prompt: Prompt, sampler: Sampler, most_tokens: int, chunk_tokens: int
    ) -> Iterator[Event]:
        """Reads `prompt`, `chunk_tokens` at a time, and draws at most `most_tokens` tokens.

        After a step that failed it may be called again, and goes on after the tokens drawn so far.
        """
        logits = yield from self._prefill(continued(prompt, self._drawn), chunk_tokens)
        if logits is not None:
            yield from self._decode(logits, sampler, most_tokens)
            yield from self._text.end()

    def _prefill(
        self, prompt: Prompt, chunk_tokens: int
    ) -> Generator[PrefillProgress, None, Tensor | None]:
        """Returns the logits [1, vocabulary] of the last token; None when it was stopped."""
        # Goes on counting where an attempt that ran out of memory broke off.
        begun_s = time.perf_counter() - self.prefill_s
        done = self.cached_tokens = self._prefix.reuse(prompt)
        total = len(prompt.token_ids)
        # What another question about the same documents shares, and what the next turn does.
        stops = (prompt.content_tokens, prompt.stable_tokens, *prompt.shared_tokens)
        logits = None
        yield PrefillProgress(done, total, self.cached_tokens, 0.0)
        # Beside a large picture others would be filled up to its size, which is planned for once
        large = [s for s in prompt.images if s.end - s.start > DEFAULT_IMAGE_TOKENS]
        apart = (*stops, *(place for s in large for place in (s.start, s.end)))
        for end in chunk_ends(done, total, chunk_tokens, prompt.images, stops=apart):
            if self._stopped():
                return None
            logits = self._read(prompt, done, end)
            self._prefix.extend(prompt.keys[done:end])
            if end in stops:
                self._prefix.mark()
            if end == prompt.content_tokens:
                self._prefix.keep(prompt)
            done = end
            if end == total:
                # Waited for, because the time of the prefill is known when the device is done.
                PendingScalar(logits[0, 0]).value()
            self.prefill_s = time.perf_counter() - begun_s
            yield PrefillProgress(done, total, self.cached_tokens, self.prefill_s)
        return logits

    def _decode(self, logits: Tensor, sampler: Sampler, most_tokens: int) -> Iterator[Event]:
        begun_s = time.perf_counter() - self.decode_s
        step = self._steps.over(self._step, self._prefix.cache)
        while not self._stopped():
            drawn = sampler.draw(logits[0])
            pending, last = PendingScalar(drawn), self.output_tokens + 1 == most_tokens
            ahead = self._steps.ahead and not last
            if ahead:  # also behind a stop token, which nobody knows yet
                logits = step(drawn.view(1, 1))
            token = int(pending.value())
            sampler.accept(token)
            if ahead:
                self._prefix.extend((token,))
            self.decode_s = time.perf_counter() - begun_s
            if token in self._loaded.stop_ids:
                self.stop_reason = "eos"
                return
            self.output_tokens += 1
            self._drawn.append(token)
            deltas = self._text.add(token)
            yield from deltas
            yield from self._steps.troubles()
            # Whole JSON needs no stop token: nothing else could follow.
            if sampler.is_over:
                self.stop_reason = "eos"
                return
            texts = (delta.text for delta in deltas if not isinstance(delta, ToolRequest))
            if self._guard.is_loop(token, "".join(texts)):
                self.stop_reason = "repetition"
                return
            if last:
                self.stop_reason = "length"
                return
            # Where steps are waited for, one that ran ahead would only delay the text.
            if not ahead:
                logits = step(drawn.view(1, 1))
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

    def _step(self, tokens: Tensor, places: Tensor | None) -> Tensor:
        """Logits [1, vocabulary] after tokens [1, 1] at positions [1, 1], by default the next."""
        given = {} if places is None else {"position_ids": places}
        return self._forward({"input_ids": tokens, **given})

    def _forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Runs `inputs` on top of the cache; the logits [1, vocabulary] of the last token."""
        model = self._loaded.model
        # Where pictures stand is looked at by the host
        given = {
            name: tensor if name == "mm_token_type_ids" else send(tensor, model.device)
            for name, tensor in inputs.items()
        }
        # Calls cost a CPU less in inference mode. Nothing can be captured in it, and a chunk of a
        # prompt has so much to do for each call that it gains nothing
        small = model.device.type == "cpu" and given["input_ids"].shape[1] == 1
        mode = torch.inference_mode if small and not self._steps.ahead else torch.no_grad
        with torch.cuda.device_of(given["input_ids"]), mode():
            output = model(
                **given, past_key_values=self._prefix.cache, use_cache=True, logits_to_keep=1
            )
        logits: Tensor = output.logits[:, -1]
        return logits
