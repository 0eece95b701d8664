"""Figures as people read them."""

import math

__all__ = ["amount", "size"]

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k"))


def amount(value: float) -> str:
    """``0``, ``0.4``, ``1,234``, ``12.3 k``, ``4.5 M``; an en dash for what is not known (NaN)."""
    if math.isnan(value):
        return "–"
    for step, letter in _STEPS:
        if abs(value) >= step:
            scaled = value / (step if step > 1e4 else 1e3)
            return f"{scaled:,.1f} {letter}" if scaled < 100 else f"{scaled:,.0f} {letter}"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"


def size(value: float) -> str:
    """Bytes: ``0 B``, ``812 B``, ``3.1 KiB``, ``1.4 GiB``."""
    if math.isnan(value):
        return "–"
    if abs(value) < 1024:
        return f"{value:,.0f} B"
    unit = "KiB"
    value /= 1024
    for larger in ("MiB", "GiB", "TiB"):
        if abs(value) < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
