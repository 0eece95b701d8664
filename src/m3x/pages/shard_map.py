"""Which instance holds which shards, as bars: one row for each instance, one stretch for shards next to each other that are alike."""

from collections.abc import Iterable, Mapping
from html import escape

import msgspec

__all__ = ["Holder", "Stretch", "shard_map", "stretches"]


class Stretch(msgspec.Struct, frozen=True):
    """Shards ``first`` to ``last`` in one state. ``kind``: ``available``, ``initializing``, ``leaving`` or ``none``, which is its colour as
    well; ``waits``: for what, and how long."""

    first: int
    last: int
    kind: str
    waits: str = ""

    @property
    def text(self) -> str:
        """``shards 0–31 available``."""
        shards = f"shard {self.first}" if self.first == self.last else f"shards {self.first}–{self.last}"
        return f"{shards} {self.kind}" + (f", {self.waits}" if self.waits else "")


class Holder(msgspec.Struct, frozen=True):
    """One instance. ``role``: leader, follower, or empty where it is not known; ``note``: what else there is to say."""

    name: str
    role: str
    note: str
    stretches: list[Stretch]


def stretches(states: Mapping[int, tuple[str, str]], num_shards: int) -> list[Stretch]:
    """From shard → (kind, waits); shards that are not there have the kind ``none``."""
    found: list[Stretch] = []
    for shard in range(num_shards):
        kind, waits = states.get(shard, ("none", ""))
        before = found[-1] if found else None
        if before is not None and (before.kind, before.waits) == (kind, waits):
            found[-1] = Stretch(before.first, shard, kind, waits)
        else:
            found.append(Stretch(shard, shard, kind, waits))
    return found


def shard_map(holders: Iterable[Holder]) -> str:
    """The bars; each says in words what it shows."""
    rows = "".join(map(_row, holders))
    return f'<div class="map" role="list">{rows}</div>' if rows else "<p>No instance holds any shards.</p>"


def _row(holder: Holder) -> str:
    said = "; ".join(one.text for one in holder.stretches if one.kind != "none") or "no shards"
    bar = "".join(
        f'<span class="{escape(one.kind)}" style="flex-grow:{one.last - one.first + 1}" title="{escape(one.text)}"></span>'
        for one in holder.stretches
    )
    role = f' <span class="state role {escape(holder.role)}">{escape(holder.role)}</span>' if holder.role else ""
    note = f' <span class="quiet">{escape(holder.note)}</span>' if holder.note else ""
    return (
        f'<div role="listitem"><span class="name">{escape(holder.name)}{role}{note}</span>'
        f'<span class="bar" role="img" aria-label="{escape(said)}">{bar}</span><span class="quiet">{escape(_short(said))}</span></div>'
    )


def _short(text: str) -> str:
    return text if len(text) <= 160 else text[:157] + "…"
