"""The tied latent: K rebuilt from V alone is the K that the model computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache

from rotorquant import RotorQuantCache
from rotorquant.attend.tied_key import TiedQueries
from rotorquant.attend.views import Queries
from rotorquant.calibration.statistics import StreamStatistics, make_frame
from rotorquant.codec.codec import Frame, RawCodec
from rotorquant.codec.make_codec import make_codec
from rotorquant.config import RotorQuantConfig
from rotorquant.layers.decode_step import StoreStep
from rotorquant.model_layers import read_model_layers
from rotorquant.ops.attend import attend_packed
from tests.rotorquant.models import SMALL_WINDOW, gemma, llama, random_tokens
from tests.tape import decodes_on_device

LAST_POSITION = 262_143


class _Taken(DynamicCache):
    """Keeps what the global layer hands over."""

    def update(
        self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        if layer_idx == 2:
            self.taken = key_states, value_states
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_k_follows_from_v_and_the_position(dtype: torch.dtype) -> None:
    model = gemma(dtype)
    positions = torch.tensor([[0, 1, 2, 777, 65_536, 131_072, LAST_POSITION]])
    cache = _Taken(config=model.config)
    model(random_tokens(1, 7), position_ids=positions, past_key_values=cache)
    key, value = cache.taken
    tie = read_model_layers(model).layers[2].tie
    assert tie is not None
    rebuilt = tie.rebuild(value, positions)
    assert rebuilt.dtype == dtype
    # w V is rounded once more in bfloat16, half a unit of 2^-8, and RoPE adds two such products.
    tolerance = 0.0 if dtype == torch.float32 else 2**-7 * float(key.abs().max())
    torch.testing.assert_close(rebuilt, key, rtol=0, atol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_16_bits_it_equals_storing_both_up_to_the_last_position(dtype: torch.dtype) -> None:
    model, tokens = gemma(dtype), random_tokens(1, 150)
    positions = torch.arange(LAST_POSITION - 149, LAST_POSITION + 1)[None]
    cache = RotorQuantCache(model, bits=16, **SMALL_WINDOW)
    chunks = []
    for part, places in zip(tokens.split(50, 1), positions.split(50, 1), strict=True):
        chunks.append(model(part, position_ids=places, past_key_values=cache).logits)
    assert cache.packed_tokens == 64
    given = torch.cat(chunks, 1).float()
    model.config._attn_implementation = "eager"
    stock = model(tokens, position_ids=positions).logits.float()
    if dtype == torch.float32:
        torch.testing.assert_close(given, stock, atol=2e-5, rtol=0)
        return
    exact = model.float()(tokens, position_ids=positions).logits
    # As near to the truth as the stock bfloat16 model is, give or take its own rounding.
    assert (given - exact).square().mean() < 1.5 * (stock - exact).square().mean()


def test_only_k_eq_v_layers_are_tied() -> None:
    kinds = [
        [layer.kind for layer in read_model_layers(model).layers] for model in (gemma(), llama())
    ]
    assert kinds == [["sliding"] * 2 + ["tied"], ["split"] * 3]
    apart = read_model_layers(gemma(attention_k_eq_v=False)).layers
    assert [layer.kind for layer in apart] == ["sliding"] * 2 + ["split"]


def test_a_changing_rotary_embedding_is_not_tied() -> None:
    """Frequencies that depend on the length would rebuild other keys than were computed."""
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0},
    }
    layers = read_model_layers(gemma(rope_parameters=rope)).layers
    assert layers[2].kind == "split"


def _some_frame(heads: int, head_dim: int, pairs: int) -> Frame:
    roots = torch.randn(2, heads, head_dim, head_dim)
    mean = torch.randn(heads, head_dim)
    return make_frame(StreamStatistics(mean, *(root @ root.mT for root in roots)), pairs)


@torch.no_grad()
@pytest.mark.parametrize(
    ("mode", "bits", "framed"),
    [("aligned", 4, False), ("planar", 3, False), ("aligned", 6, True), ("aligned", 16, False)],
)
def test_queries_score_rows_of_v_as_they_score_keys(mode: str, bits: int, framed: bool) -> None:
    torch.manual_seed(bits)
    tie = read_model_layers(gemma()).layers[2].tie
    assert tie is not None
    weight = tie.norm.weight
    assert isinstance(weight, torch.Tensor)
    weight.normal_()
    heads, head_dim, keys = 2, weight.shape[0], 30
    frame = _some_frame(heads, head_dim, tie.pairs) if framed else None
    cpu = torch.device("cpu")
    codec = make_codec(RotorQuantConfig(bits, mode), 0, tie.pairs, head_dim, cpu, frame)
    queries = TiedQueries(tie, codec, cpu)
    # Keys as a batch, so that the largest score of a part is the score of a key
    value, query = torch.randn(keys, heads, 1, head_dim), torch.randn(1, heads, 5, head_dim)
    positions = torch.randint(LAST_POSITION, (keys, 1))
    exact = queries.exact(query.expand(keys, -1, -1, -1), positions, torch.float32)
    raw = RawCodec(head_dim, cpu)
    for kept, asked in ((raw, exact), (codec, queries.packed(exact))):
        rows = kept.encode(value)
        key = tie.rebuild(kept.decode(rows), positions)
        part = attend_packed(asked.query, rows, None, kept.table, asked.rope)
        scores = part.top if asked.shift is None else part.top + asked.shift
        wanted = query @ key.mT
        # Float32 sums of up to 512 products, of terms as large as the largest score
        torch.testing.assert_close(scores, wanted, rtol=0, atol=2e-6 * float(wanted.abs().max()))


class _Launches(TorchDispatchMode):
    """Counts what makes or changes a tensor; views launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [result.alias_info for result in func._schema.returns]
        views = any(alias is not None and not alias.is_write for alias in given)
        if not views and func._schema.name != "aten::_unsafe_view":
            self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_a_step_takes_eight_launches_beside_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a captured step a launch costs more than what these compute."""
    decodes_on_device(monkeypatch)
    attend, counts = StoreStep.attend, []

    def counted(self: StoreStep, asked: Queries) -> torch.Tensor:
        with _Launches() as launches:
            output = attend(self, asked)
        counts.append(len(launches.names))
        return output

    monkeypatch.setattr(StoreStep, "attend", counted)
    model, tokens = gemma(torch.bfloat16), random_tokens(1, 150)
    cache = RotorQuantCache(model, bits=4, statistics="none", **SMALL_WINDOW)
    model(tokens, past_key_values=cache)
    model(tokens[:, :1], past_key_values=cache)
    assert cache.packed_tokens > 0
    assert counts == [8]
