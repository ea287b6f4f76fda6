"""How fast memory can be read: the ceiling of decoding, which reads all weights for every token."""

from __future__ import annotations

__all__ = ["bandwidth_of", "memory_bandwidth", "typical_card"]

# 10^9 bytes per second, as the vendors' data sheets give them. The longest name that a card's own
# contains is taken.
_CARDS_GB_PER_S = {
    "RTX 3050": 224,
    "RTX 3050 6GB": 168,
    "RTX 3050 Laptop": 192,
    "RTX 3060": 360,
    "RTX 3060 Ti": 448,
    "RTX 3070": 448,
    "RTX 3070 Ti": 608,
    "RTX 3080": 760,
    "RTX 3080 Ti": 912,
    "RTX 3090": 936,
    "RTX 3090 Ti": 1008,
    "RTX 4060": 272,
    "RTX 4060 Ti": 288,
    "RTX 4070": 504,
    "RTX 4070 Ti SUPER": 672,
    "RTX 4080": 717,
    "RTX 4080 SUPER": 736,
    "RTX 4090": 1008,
    "RTX 5060": 448,
    "RTX 5070": 672,
    "RTX 5070 Ti": 896,
    "RTX 5080": 960,
    "RTX 5090": 1792,
    "RTX A2000": 288,
    "RTX A4500": 640,
    "RTX A5000": 768,
    "RTX A6000": 768,
    "RTX 6000 Ada": 960,
    "RTX PRO 6000": 1792,
    "Tesla T4": 320,
    "V100": 900,
    "A10": 600,
    "A40": 696,
    "NVIDIA L4": 300,
    "NVIDIA L40": 864,
    "A100-SXM4-40GB": 1555,
    "A100-PCIE-40GB": 1555,
    "A100-SXM4-80GB": 2039,
    "A100 80GB PCIe": 1935,
    "H100 PCIe": 2039,
    "H100 80GB HBM3": 3350,
    "H100 NVL": 3938,
    "H200": 4800,
    "B200": 8000,
    "RX 7900 XT": 800,
    "RX 7900 XTX": 960,
    "MI300X": 5300,
    "Apple M1 Max": 400,
    "Apple M1 Ultra": 800,
    "Apple M2 Max": 400,
    "Apple M2 Ultra": 800,
    "Apple M3 Max": 400,
    "Apple M3 Ultra": 819,
    "Apple M4 Pro": 273,
    "Apple M4 Max": 546,
}
# A card that is often bought with so many GiB; data sheets as above
_TYPICAL = {
    4: "RTX 3050 Laptop",
    6: "RTX A2000",
    8: "RTX 4060",
    10: "RTX 3080",
    12: "RTX 4070",
    16: "RTX 4080 SUPER",
    20: "RTX A4500",
    24: "RTX 4090",
    32: "RTX 5090",
    40: "A100-PCIE-40GB",
    48: "NVIDIA L40S",
    80: "H100 80GB HBM3",
    96: "RTX PRO 6000",
    131: "H200",  # sold as 141 GB
}
_GIB = 2**30
_NEAR = 0.08  # 24 GB are 7 % less than 24 GiB


def typical_card(memory_bytes: int) -> str:
    """A card with about that much memory; empty where none is common."""
    gib = min(_TYPICAL, key=lambda size: abs(size * _GIB - memory_bytes))
    return _TYPICAL[gib] if abs(gib * _GIB - memory_bytes) <= _NEAR * gib * _GIB else ""


def bandwidth_of(card: str) -> int:
    """Bytes per second of the card with that name; 0 where it is not known."""
    known = [name for name in _CARDS_GB_PER_S if name.lower() in card.lower()]
    return _CARDS_GB_PER_S[max(known, key=len)] * 10**9 if known else 0


def memory_bandwidth(clock_mhz: int, bus_bits: int) -> int:
    """Bytes per second of memory that moves two bits per line and clock, as NVML counts clocks."""
    return 2 * clock_mhz * 10**6 * bus_bits // 8
