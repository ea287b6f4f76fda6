"""A layer that sees the whole sequence, and its attention over exact and packed tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rotorquant.attend.packed_rows import attend_rows, in_place
from rotorquant.attend.prompt_chunk import attend_chunk, attend_history, is_chunk
from rotorquant.attend.tied_key import TiedKey, TiedQueries
from rotorquant.attend.views import Queries, attend_in_blocks, check_capacity, check_chunk, handles
from rotorquant.codec.codec import Codec, Frame, PackedCodec
from rotorquant.config import RotorQuantConfig
from rotorquant.exceptions import SnapshotError
from rotorquant.layers.base import StoringLayer
from rotorquant.layers.decode_step import StoreStep
from rotorquant.layers.finite_check import LayerContext
from rotorquant.layers.frame_learner import FrameLearner
from rotorquant.layers.global_store import CodecMaker, GlobalState, GlobalStore
from rotorquant.layers.positions import PositionLog
from rotorquant.ops.append import Look
from rotorquant.ops.attend import Part, attend_exact
from rotorquant.ops.decode import serves

__all__ = ["GlobalLayer", "GlobalState"]


@dataclass(frozen=True, slots=True, eq=False)
class GlobalView:
    """A `LayerView` of a global layer; `key` [B, H, T, D] is the chunk's own, exact."""

    layer: GlobalLayer
    key: torch.Tensor

    def attend(self, queries: Queries) -> torch.Tensor:
        """Attention output [B, T, heads, D]; pictures stay causal in global layers."""
        return self.layer.attend(queries, self.key)

    def stored(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V [B, kv_heads, N, D] that the layer stores now, dequantized, in order."""
        return self.layer.dense()


class GlobalLayer(StoringLayer[GlobalStore]):
    """Keys and values of one global layer; with a tie, V alone.

    Args:
        config: the cache's options.
        tie: how K follows from V, or None to store both.
        positions: the log of the cache; read for tied layers only.
        context: what the layers share.
        frames: of every stream, or none.
    """

    is_sliding = False

    def __init__(
        self,
        config: RotorQuantConfig,
        tie: TiedKey | None,
        positions: PositionLog | None,
        context: LayerContext,
        frames: Sequence[Frame] = (),
    ) -> None:
        super().__init__(config, context)
        self._tie = tie
        self._learner: FrameLearner | None = None
        self._positions = positions
        self._codecs = self._codec_maker(frames)
        self._tied_queries: TiedQueries | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate for the shapes of a first chunk; it is not stored."""
        like = self._streams(key_states[:, :, :0], value_states[:, :, :0])
        codecs = self._make_codecs(like[0])
        self.store = GlobalStore(self._config, codecs, like, self._context.meter)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Store a chunk [B, H, T, D]; returns and raises as `RotorQuantCache.update` does."""
        stored = self.store.sink.rows()[0] if self.is_initialized else None
        check_chunk(key_states, value_states, stored)
        length, tokens = self.get_seq_length(), key_states.shape[2]
        check_capacity(length, tokens, self._config.max_tokens)
        total = self._context.finite_check.check(key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self._positions is not None:
            self._positions.extend(key_states.shape[0], length, tokens, key_states.device)
        # A prompt that is still being read; while drafts are undone by crops, nothing may wait.
        waits = tokens > 1 and not self.record_past and self._waits(tokens)
        if not waits:
            # Before the chunk is stored, which stays exact for its own queries however long it is.
            self._pack_old()
        # Of a tied layer K is looked at, too, though V alone is stored.
        also = None if self._tie is None else key_states
        look = None if total is None else Look(total, also)
        self.store.keep(self._streams(key_states, value_states), waits, look)
        if not self._context.returns_views():
            return self.dense(key_states)
        if self._in_one_pass(key_states):
            return handles(StoreStep(self.store, self._tied_queries, self._positions, self.dense))
        return handles(GlobalView(self, key_states))

    def attend(self, queries: Queries, chunk_key: torch.Tensor) -> torch.Tensor:
        """Attention of the last T tokens, whose own keys [B, H, T, D] are exact."""
        query, scaling, key_mask = queries.query, queries.scaling, queries.key_mask
        if self._learner is not None and query.shape[2] > 1:
            self._learner.see(query, scaling, chunk_key.shape[1])
        low, high = self.store.span
        key, value = self._exact(chunk_key)
        past = key.shape[2] - query.shape[2]
        packed_mask = exact_mask = None
        if key_mask is not None:
            packed_mask = key_mask[:, low:high]
            exact_mask = torch.cat((key_mask[:, :low], key_mask[:, high:]), dim=1)

        if is_chunk(query, key):  # enough queries to decode the packed tokens once for all of them
            packed, positions = self.store.packed, self._packed_positions(query.device)
            given = query, packed.streams(), packed.codecs, self._tie, positions
            before = attend_history(*given, scaling, packed_mask) if high > low else None
            return attend_chunk(query, key, value, scaling, key_mask=exact_mask, before=before)

        def parts(grouped: torch.Tensor, start: int) -> list[Part]:
            exact = attend_exact(grouped, key, value, past + start, key_mask=exact_mask)
            return [exact, self._attend_packed(grouped, packed_mask)] if high > low else [exact]

        return attend_in_blocks(query, key.shape[1], scaling, parts)

    def dense(self, chunk_key: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V [B, H, length, D] of all tokens, dequantized, in the model's dtype.

        `chunk_key` are the exact keys of the last tokens; without, they are rebuilt.
        """
        low, high = self.store.span
        key, value = self._exact(chunk_key)
        packed = self.store.packed.decode(value.dtype)
        if self._tie is not None and self._positions is not None:
            packed.insert(
                0, self._tie.rebuild(packed[0], self._positions.read(low, high, value.device))
            )
        middle_key, middle_value = packed
        return (
            torch.cat((key[:, :, :low], middle_key, key[:, :, low:]), dim=2),
            torch.cat((value[:, :, :low], middle_value, value[:, :, low:]), dim=2),
        )

    def repack(self, config: RotorQuantConfig) -> None:
        """Go on with the widths of `config`; what is packed is packed again in them."""
        self._config = config
        if self.is_initialized:
            like = self.store.sink.rows()[0]
            if self._learns:
                learner = self._begin_to_learn(like)
                self._codecs.frames = learner.frames_for(self.store.packed)
            self.store.repack(config, self._make_codecs(like))
            if self._learner is not None:  # the codecs have their own
                self._codecs.frames = ()

    def tensors(self) -> dict[str, list[torch.Tensor]]:
        """What `load` restores, views of the storage; a calibration's frames are part of it."""
        used = self._codecs.frames
        if self._learner is not None:
            used = self.store.packed.frames()
        frames = {"frame": [field for frame in used for field in frame]}
        if self._learner is not None:
            frames["learned"] = self._learner.tensors()
        if not self.is_initialized:
            return frames
        return frames | {name: buffer.rows() for name, buffer in self.store.buffers.items()}

    def load(
        self, groups: dict[str, list[torch.Tensor]], length: int, device: torch.device
    ) -> None:
        """Restore what `tensors` gave, `length` tokens.

        Raises:
            SnapshotError: these are not the tensors of a global layer with these options.
        """
        self.reset()
        fields = groups.pop("frame", [])
        width = len(Frame._fields)
        if len(fields) not in (0, width * len(self._config.stream_bits(self._tie is not None))):
            raise SnapshotError(f"a layer cannot have {len(fields)} tensors of frames")
        frames = [Frame(*fields[low : low + width]) for low in range(0, len(fields), width)]
        self._codecs = self._codec_maker(frames)
        learned = groups.pop("learned", [])
        if not groups and not length:
            return
        streams = groups.get("sink", [])
        if set(groups) != {"sink", "packed", "tail"} or not streams or streams[-1].ndim != 4:
            raise SnapshotError(f"a global layer cannot be made of {sorted(groups)}")
        like = streams[-1][:, :, :0].to(device)
        self.lazy_initialization(like, like)
        if self._learner is not None and learned:
            self._learner.load(learned)
        for name, buffer in self.store.buffers.items():
            buffer.load(groups[name])
        if self.get_seq_length() != length:
            raise SnapshotError(f"a layer has {self.get_seq_length()} tokens of {length}")

    def reset(self) -> None:
        """Forget all tokens, and what was learned of them, and give the memory back."""
        if self._learner is not None and self.is_initialized:
            self.store.truncate(0)
            self._learner.reset(self.store.packed)
        super().reset()

    def storage(self) -> list[torch.Tensor]:
        """The tensors that hold the tokens, their counts, and the frames they are read by."""
        codecs = self.store.packed.codecs if self.is_initialized else ()
        packed = [codec for codec in codecs if isinstance(codec, PackedCodec)]
        return super().storage() + [table for codec in packed for table in codec.tables]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(keys, index of the first key) of the next chunk."""
        return self.get_seq_length() + query_length, 0

    def flush(self) -> None:
        """Pack what is due, as the next step would."""
        if self.is_initialized:
            self._pack_old()

    def steps_on_device(self) -> bool:
        """Whether decode steps find what they read by lengths on the device."""
        # Stands for the keys of a step: shape and device are all that counts.
        return self._in_one_pass(self.store.sink.whole()[0][:, :, :1])

    @property
    def next_place(self) -> str | None:
        """Where one more token goes; None where it moves or packs something."""
        return self.store.next_place if self.is_initialized else None

    @property
    def packed_tokens(self) -> int:
        """Tokens that are stored packed."""
        return self.store.packed.length if self.is_initialized else 0

    def crop_to(self, length: int) -> None:
        """Keep the first `length` tokens."""
        if self.is_initialized:
            self.store.truncate(length)
            if self._learner is not None and self._learner.forget_rows(self.store.packed):
                self._follow()

    def save(self, device: torch.device | None = None) -> GlobalState | None:
        """What `restore` needs to come back here; packed tokens are never copied."""
        if not self.is_initialized:
            return None
        if not self._waits(1):
            # As the next pass would; afterwards every row of it would have to be copied first
            self._pack_old()
        state = self.store.save(device)
        return state if self._learner is None else state._replace(learned=self._learner.save())

    def restore(self, state: object) -> None:
        """Return to a saved state that later tokens have only been added to."""
        if isinstance(state, GlobalState):
            self.store.restore(state)
            learned, learner = state.learned, self._learner
            if learner and learned and learner.restore(learned, self.store.packed):
                self._follow()
        else:
            self.reset()

    @property
    def _learns(self) -> bool:
        widths = self._config.stream_bits(self._tie is not None)
        return self._config.learns and set(widths) != {16}

    def _waits(self, tokens: int) -> bool:
        """Whether what is due stays exact while a chunk of a prompt is stored."""
        if self._config.defer == "window" and self._learner is not None:
            # A step of one token packs whatever is there, so this ends with the prompt
            return self._learner.waits(self.store.due_tokens + tokens)
        return self._config.defer == "prompt"

    def _pack_old(self) -> None:
        """Pack what is due, in a frame of its own rows where the layer learns."""
        due = self.store.due_tokens
        if due and self._learner is not None:
            rows = self.store.tail.rows(0, due)
            if self._learner.learn(self.store.packed, rows):
                self._follow()
        self.store.pack_old()

    def _follow(self) -> None:
        """Let queries go by the frames that are in use now."""
        if self._tied_queries is not None:
            with torch.inference_mode(False):
                self._tied_queries.refresh()

    def _in_one_pass(self, keys: torch.Tensor) -> bool:
        """Whether a kernel takes a step with these keys over all that is stored."""
        pairs = 0 if self._tie is None else self._tie.pairs
        return serves(keys, pairs) and in_place(self.store.packed.codecs, self._tie)

    def _codec_maker(self, frames: Sequence[Frame]) -> CodecMaker:
        return CodecMaker(self._pairs, frames)

    @property
    def _pairs(self) -> int | None:
        return None if self._tie is None else self._tie.pairs

    def _begin_to_learn(self, like: torch.Tensor) -> FrameLearner:
        """What learns from rows like [B, H, any, D], and codecs that take what it learns."""
        if self._learner is None:
            pairs = 0 if self._pairs is None or self._config.mode != "aligned" else self._pairs
            self._learner = FrameLearner(self._tie, pairs)
        self._codecs.heads = like.shape[1]
        return self._learner

    def _make_codecs(self, like: torch.Tensor) -> list[Codec]:
        """The codecs for rows like [B, H, any, D], and the queries that go with them."""
        if self._learns:
            self._begin_to_learn(like)
        codecs = self._codecs.make(self._config, like.shape[-1], like.device)
        if self._tie is not None:
            # Made within a pass, but used by later ones, which may be outside inference mode.
            with torch.inference_mode(False):
                self._tied_queries = TiedQueries(self._tie, codecs[0], like.device)
        return codecs

    def _streams(self, key: torch.Tensor, value: torch.Tensor) -> list[torch.Tensor]:
        # Detached, or a pass with gradients would keep its whole graph alive in the cache.
        return [value.detach()] if self._tie is not None else [key.detach(), value.detach()]

    def _exact(self, chunk_key: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V of the tokens that are not packed, in order; the chunk's K as it was given."""
        streams = self.store.exact()
        if self._tie is None or self._positions is None:
            return streams[0], streams[1]
        value = streams[0]
        if chunk_key is None:
            chunk_key = value[:, :, :0]
        old = value.shape[2] - chunk_key.shape[2]
        if old == 0:  # all exact tokens are the chunk's, whose keys need no rebuilding
            return chunk_key, value
        low, high = self.store.span
        spans = (0, low), (high, high + old)
        positions = torch.cat([self._positions.read(*s, value.device) for s in spans], dim=1)
        # The spans cover the whole sink, into which the chunk itself may reach.
        positions = positions[:, :old]
        return torch.cat((self._tie.rebuild(value[:, :, :old], positions), chunk_key), 2), value

    def _attend_packed(self, grouped: torch.Tensor, key_mask: torch.Tensor | None) -> Part:
        """The packed tokens' part for queries [B, H, G, T, D], in natural space."""
        packed, positions = self.store.packed, self._packed_positions(grouped.device)
        part = attend_rows(
            grouped.flatten(2, 3),
            packed.streams(),
            packed.codecs,
            self._tied_queries,
            positions,
            self.store.sink.rows()[0].dtype,
            key_mask,
        )
        return Part(*(field.unflatten(2, grouped.shape[2:4]) for field in part))

    def _packed_positions(self, device: torch.device) -> torch.Tensor | None:
        if self._positions is None:
            return None
        return self._positions.read(*self.store.span, device)
