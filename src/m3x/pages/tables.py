"""Tables and lists of a page."""

from collections.abc import Collection, Iterable
from html import escape

__all__ = ["bullets", "facts", "table"]


def table(
    heads: Iterable[str], rows: Iterable[Iterable[str]], left: Collection[int] = (0,), *, caption: str = ""
) -> str:
    """Cells of ``rows`` are HTML already; the columns in ``left`` hold text, the others figures."""

    def cells(tag: str, row: Iterable[str]) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        return "".join(
            f"<{tag}{scope}{' class=text' if i in left else ''}>{cell}</{tag}>" for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{said}<thead><tr>{cells("th", map(escape, heads))}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(lines: Iterable[tuple[str, str]]) -> str:
    """What, and how it is: one line each."""
    rows = "".join(
        f'<tr><th scope="row" class="what">{escape(w)}</th><td class="text">{escape(v)}</td></tr>' for w, v in lines
    )
    return f'<table class="facts">{rows}</table>'


def bullets(title: str, lines: Iterable[str], kind: str) -> str:
    """A list with a heading that is read out when it changes; without lines it is there, and not seen. ``kind``: its class."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    hidden = "" if items else " hidden"
    return f'<section class="{kind}" aria-live="polite"{hidden}><h2>{escape(title)}</h2><ul>{items}</ul></section>'
