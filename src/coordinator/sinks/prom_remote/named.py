"""Which series a store's answer speaks of: some name the first one that they refuse, as PromQL writes series. Pure."""

import re

from coordinator.prompb import Labels
from m3metrics.ids import NAME_TAG

__all__ = ["named_series"]

# Names begin where words begin and are taken whole, or a long word without a brace would be looked at from each of its letters.
_SERIES = re.compile(r'(?<![a-zA-Z0-9_:])([a-zA-Z_:][a-zA-Z0-9_:]*+)?\{((?:[^"{}]|"(?:[^"\\]|\\.)*+")*+)\}')
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}


def named_series(text: str) -> Labels | None:
    """Labels, sorted by name, of the first thing in ``text`` that looks like ``name{a="b"}``; None where there is none.

    No more than a hint: a text that was cut off, or a name that has ``{`` in it, names nothing, or another series.
    """
    for match in _SERIES.finditer(text):
        name, inside = match.groups()
        labels = [(NAME_TAG, name.encode())] if name else []
        at = 0
        while at < len(inside) and (label := _LABEL.match(inside, at)):
            labels.append((label[1].encode(), _ESCAPE.sub(_plain, label[2]).encode()))
            at = label.end()
        if labels and at == len(inside):
            return sorted(labels)
    return None


def _plain(escape: re.Match[str]) -> str:
    return _ESCAPED.get(escape[1], escape[0])
