"""The page around: style, the script that looks again, and the headers that allow the browser those two and nothing else.

The script (``look.js``) asks for the same page every few seconds and changes only what differs, so that nothing flickers: where a reader
has scrolled, what is unfolded, selected or typed stays. Without scripts the browser loads the page anew.
"""

import base64
import hashlib
from html import escape
from importlib.resources import files

from m3x.version import VERSION

__all__ = ["HEADERS", "REFRESH_S", "frame"]

REFRESH_S = 5
_STYLE, _SCRIPT = (files("m3x.pages").joinpath(name).read_text("utf-8") for name in ("style.css", "look.js"))

_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()

HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Headers of pages: what the browser is told to allow them, their own style and script."""


def frame(
    title: str, heading: str, badges: str, line: str, body: str, links: dict[str, str], *, looks: bool = True
) -> str:
    """A whole page. ``badges`` and ``body`` are HTML; ``line`` stands below the heading; ``links``: text → where, below everything.

    ``looks``: it looks again every few seconds.
    """
    again = f'<noscript><meta http-equiv="refresh" content="{REFRESH_S}"></noscript>\n' if looks else ""
    listed = " · ".join(f'<a href="{escape(where)}">{escape(text)}</a>' for text, where in links.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
{again}<title>{escape(title)}</title><style>{_STYLE}</style></head>
<body data-refresh="{REFRESH_S if looks else 0}"><header><h1>{escape(heading)} <span class="badges">{badges}</span></h1>
<p class="quiet" id="fresh">{escape(line)}</p></header>
<main>{body}</main>
<nav aria-label="More">{listed} · <button type="button" id="pause" hidden>pause</button>
<span class="quiet">version {VERSION}</span></nav><script>{_SCRIPT}</script></body></html>
"""
