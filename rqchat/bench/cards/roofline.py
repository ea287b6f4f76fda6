"""What a decode step has to read, and how fast memory lets it: the floor under every token.

`python -m rqchat.bench roofline --vram 24GiB --contexts 8192 131072`: for each size of card (else
for the device that is there) and each context, the bytes that a token of the planned model has to
read with a full cache, and the least milliseconds that takes. `--bandwidth` is another card's. With
a GPU the 31B's true shapes run with random weights: tokens a second, the share of a copy's speed,
launches a token, and on standard error a table of what each kernel takes. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from rqchat.bench.memory_case import Case, Outcome, measure
from rqchat.engine.planning.devices import DeviceInfo, device_for, planned_card
from rqchat.engine.planning.known_models import known_model, known_models
from rqchat.engine.planning.plan import make_plan
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import Settings, parse_size_bytes
from rqchat.errors import RqchatError

__all__ = ["Row", "reckoned", "run_roofline"]

_CONTEXTS = (8192, 131_072, 262_144)
_COPY_BYTES, _COPIES = 2**30, 20


@dataclass(frozen=True, slots=True)
class Row:
    """A decode step at the end of a context.

    Attributes:
        card, weights, kv_bits, context_tokens: what is planned.
        bytes_per_token: that a step reads.
        floor_ms: of a token, by the bandwidth of the data sheet; 0 where that is unknown.
        tokens_per_s: measured; 0 without a GPU.
        share: of the speed that a copy on the card reaches; 0 without a GPU.
        launches: of kernels in a step that is not captured; 0 without a GPU.
        error: why nothing was measured.
    """

    card: str
    weights: str
    kv_bits: int
    context_tokens: int
    bytes_per_token: int
    floor_ms: float
    tokens_per_s: float = 0.0
    share: float = 0.0
    launches: float = 0.0
    error: str = ""


def reckoned(model: str, device: DeviceInfo, contexts: Sequence[int]) -> list[Row]:
    """A row for each context of a model of the catalog on a device; nothing is measured.

    Raises:
        RqchatError: no such model, or it does not fit.
    """
    known = known_model(model)
    if known is None:
        names = ", ".join(each.short_name for each in known_models())
        raise RqchatError(f"--model is {model!r}; shapes are known of {names}")
    shape, rows = ModelShape.from_config(known.config), []
    for tokens in contexts:
        asked = Settings(context_tokens=min(tokens, shape.max_context_tokens))
        chosen = make_plan(shape, device, asked).chosen
        floor = 1e3 * chosen.read_bytes / device.bandwidth if device.bandwidth else 0.0
        formats = chosen.weights, chosen.kv_bits, chosen.context_tokens
        name = device.stands_for or device.name
        rows.append(
            Row(f"{name}, {device.total_bytes / 2**30:.0f} GiB", *formats, chosen.read_bytes, floor)
        )
    return rows


def run_roofline(
    model: str, vrams: Sequence[str], contexts: Sequence[int], bandwidth: float
) -> list[Row]:
    """Prints the table as rows come, and returns them.

    Args:
        model: of the catalog; `pocket` stands for the largest.
        vrams: sizes of cards; none for the device that is there.
        contexts: in tokens; none for 8K, 128K and 256K.
        bandwidth: 10^9 bytes a second, instead of the card's; 0 for that.

    Raises:
        RqchatError: no such model or size, or it does not fit.
    """
    model = known_models()[0].name if model == "pocket" else model
    sizes = [parse_size_bytes(text) for text in vrams]
    devices = [planned_card(size) for size in sizes] or [device_for(Settings())]
    copy = _copy_bytes_per_s() if torch.cuda.is_available() else 0.0
    found = []
    sys.stdout.write(
        f"a copy moves {copy / 1e9:,.0f} GB/s\n" if copy else "no GPU: reckoned alone\n"
    )
    sys.stdout.write(
        "card | weights | KV | context | MB a token | floor | measured | share | launches\n"
    )
    for device, size in zip(devices, [*sizes, 0][: len(devices)], strict=True):
        device = replace(device, bandwidth=int(bandwidth * 1e9) or device.bandwidth)
        for row in reckoned(model, device, contexts or _CONTEXTS):
            if copy:
                row = _measured(row, model, size, copy)
            found.append(row)
            sys.stdout.write(_line(row) + "\n")
            sys.stdout.flush()
    return found


def _measured(row: Row, model: str, size: int, copy: float) -> Row:
    case = Case(model, row.weights, (row.context_tokens,), row.kv_bits, size, profile=True)
    done = next(iter(measure(case)))
    if not isinstance(done, Outcome):
        return replace(row, error=done.error)
    rate = done.decode_tokens_per_s
    share = rate * row.bytes_per_token / copy
    return replace(row, tokens_per_s=rate, share=share, launches=done.launches)


def _line(row: Row) -> str:
    cells = [row.card, row.weights, str(row.kv_bits), f"{row.context_tokens:,}"]
    cells += [f"{row.bytes_per_token / 1e6:,.0f}", f"{row.floor_ms:.2f} ms"]
    if row.error:
        return " | ".join([*cells, row.error])
    measured = f"{row.tokens_per_s:.1f}/s", f"{row.share:.0%}", f"{row.launches:.0f}"
    return " | ".join([*cells, *(measured if row.tokens_per_s else "---")])


def _copy_bytes_per_s() -> float:
    """What a copy on the card reads and writes in a second."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    target, begin, end = torch.empty_like(source), *_events()
    target.copy_(source)
    begin.record()
    for _ in range(_COPIES):
        target.copy_(source)
    end.record()
    end.synchronize()
    return 2 * _COPIES * _COPY_BYTES / (begin.elapsed_time(end) / 1e3)


def _events() -> Iterator[torch.cuda.Event]:
    return (torch.cuda.Event(enable_timing=True) for _ in range(2))


def main() -> None:
    """Reads what `rqchat.bench` has let through."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--vram", nargs="*", default=())
    parser.add_argument("--contexts", type=int, nargs="*", default=())
    parser.add_argument("--bandwidth", type=float, default=0.0)
    given, _ = parser.parse_known_args()
    try:
        rows = run_roofline(given.model, given.vram, given.contexts, given.bandwidth)
    except RqchatError as error:
        sys.exit(str(error))
    record = {
        "benchmark": "roofline",
        "torch": torch.__version__,
        "rows": [asdict(r) for r in rows],
    }
    sys.stdout.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
