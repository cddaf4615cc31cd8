"""HTML and SVG from Python: everything that is not markup already is escaped, so no file name can become code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Attributes = Mapping[str, str | float | bool | None]

_VOID = frozenset({"br", "img", "input", "meta", "line", "circle", "path", "rect", "polyline"})


class Html(str):
    """Text that is markup. Only this module and constants of the code make it."""

    __slots__ = ()


def text(value: object) -> Html:
    """Text as markup: ``&``, ``<``, ``>`` and quotes escaped; what cannot be printed is spelled out."""
    if isinstance(value, Html):
        return value
    printable = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in str(value))
    return Html(escape(printable))


def tag(name: str, attributes: Attributes | None = None, *children: object) -> Html:
    """One element. An attribute that is None or False is left out, one that is True has no value."""
    parts = [name]
    for key, value in (attributes or {}).items():
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            shown = f"{value:.6g}" if isinstance(value, float) else value
            parts.append(f'{key}="{text(shown)}"')
    start = " ".join(parts)
    if name in _VOID and not children:
        return Html(f"<{start}>") if name in ("br", "img", "input", "meta") else Html(f"<{start}/>")
    return Html(f"<{start}>{join(children)}</{name}>")


def join(parts: Iterable[object], separator: str = "") -> Html:
    """Parts one after another, each escaped unless it is markup."""
    return Html(text(separator).join(text(part) for part in parts))


def breakable(name: str) -> Html:
    """A file's name that a narrow column may break after slashes and underscores, and nowhere else."""
    pieces = text(name).replace("/", "/<wbr>").replace("_", "_<wbr>")
    return tag("span", {"class": "breakable"}, Html(pieces))


def paragraph(*children: object) -> Html:
    """``<p>``."""
    return tag("p", None, *children)


def bullets(items: Iterable[object]) -> Html:
    """``<ul>``; nothing for no items."""
    rows = [tag("li", None, item) for item in items]
    return tag("ul", None, *rows) if rows else Html("")


def details(summary: object, *children: object) -> Html:
    """What opens on a click, and always in print."""
    return tag("details", None, tag("summary", None, summary), *children)


@dataclass(frozen=True)
class Column:
    """Head of a column. number: its cells are aligned at the right. note: what it means, shown on hovering."""

    label: str
    number: bool = True
    note: str | None = None


def table(caption: object, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> Html:
    """A table that scrolls by itself where the page is too narrow. The first cell of a row is its head.

    Raises ValueError for a row of another length than ``columns``.
    """
    head = [tag("th", {"scope": "col", "class": "n" if c.number else None, "title": c.note}, c.label) for c in columns]
    body = []
    for row in rows:
        cells = [
            tag("th" if index == 0 else "td", {"scope": "row" if index == 0 else None,
                                               "class": "n" if column.number else None}, cell)
            for index, (column, cell) in enumerate(zip(columns, row, strict=True))
        ]  # fmt: skip
        body.append(tag("tr", None, *cells))
    inner = tag(
        "table",
        None,
        tag("caption", None, caption),
        tag("thead", None, tag("tr", None, *head)),
        tag("tbody", None, *body),
    )
    return tag("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "table"}, inner)


def json_block(value: Any, attributes: Attributes) -> Html:
    """Data for the script of the page, in an element that no browser runs and no content can close."""
    content = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    safe = content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return tag("script", {"type": "application/json", **attributes}, Html(safe))
