"""What a command found: aligned text for people and pipes, JSON for programs; and how times and shards are written."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Report", "Table", "age", "clock", "ranges", "shown_duration"]

_SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class Table:
    """Columns and rows of text; a column whose name ends in ``>`` is aligned to the right."""

    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The table, header first."""
        heads = [column.removesuffix(">") for column in self.columns]
        widths = [max(len(row[i]) for row in (heads, *self.rows)) for i in range(len(heads))]
        right = [column.endswith(">") for column in self.columns]

        def line(cells: Sequence[str]) -> str:
            padded = (
                cell.rjust(width) if is_right else cell.ljust(width)
                for cell, width, is_right in zip(cells, widths, right, strict=True)
            )
            return "  ".join(padded).rstrip()

        return [line([head.upper() for head in heads]), *(line(row) for row in self.rows)]


@dataclass(slots=True)
class Report:
    """``data`` becomes the JSON object, ``blocks`` the text; a report with ``problems`` ends the command with exit code 1."""

    data: dict[str, Any] = field(default_factory=dict)
    blocks: list[str | Table] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is worth knowing and no problem."""
    problems_shown: bool = False
    """The blocks tell the problems already."""

    def text(self) -> str:
        """Blocks, then problems and notes."""
        lines: list[str] = []
        for block in self.blocks:
            lines += block.lines() if isinstance(block, Table) else [block]
        lines += [] if self.problems_shown else [f"problem: {line}" for line in self.problems]
        lines += [f"note: {line}" for line in self.notes]
        return "\n".join(lines)

    def json(self) -> str:
        """One object: the data, and ``ok``, ``problems``, ``notes``."""
        whole = {**self.data, "ok": not self.problems, "problems": self.problems, "notes": self.notes}
        return json.dumps(whole, indent=2)


def clock(ns: int) -> str:
    """A time as UTC; ``never`` for 0."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(ns // _SECOND_NS)) if ns else "never"


def age(ns: int, now_ns: int) -> str:
    """How long ago, or in how long; empty for 0."""
    if not ns:
        return ""
    seconds = (now_ns - ns) / _SECOND_NS
    return f"{shown_duration(seconds)} ago" if seconds >= 0 else f"in {shown_duration(-seconds)}"


def shown_duration(seconds: float) -> str:
    """``4.2 s``, ``3 m 20 s``, ``5 h 12 m``, ``3 d 4 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} m" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def ranges(numbers: Iterable[int]) -> str:
    """``0-31, 40``; a dash for none."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans) or "-"
