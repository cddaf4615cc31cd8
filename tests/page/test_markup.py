"""Whatever a file is called, it stays text; and a table has as many cells as heads."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsr.page.markup import Column, Html, join, json_block, table, tag, text

ANY_TEXT = st.text(max_size=60) | st.sampled_from(
    ["<script>alert(1)</script>", '" onload="x', "</script><img src=x>", "<!--", "]]>", "\x00\x1b[31m", "&amp;"]
)


class Reader(HTMLParser):
    """What a browser would make of markup: the elements, and the text between them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.content = ""

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.content += data


def read(markup: str) -> Reader:
    reader = Reader()
    reader.feed(markup)
    reader.close()
    return reader


@given(child=ANY_TEXT, value=ANY_TEXT)
def test_text_and_attributes_cannot_break_out(child, value):
    reader = read(tag("p", {"title": value, "hidden": True, "lang": None}, child, Html("<b>x</b>")))
    assert [name for name, _ in reader.elements] == ["p", "b"]
    assert set(reader.elements[0][1]) == {"title", "hidden"}
    shown = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in child)
    assert reader.content == shown + "x"


@given(value=st.recursive(ANY_TEXT | st.floats(allow_nan=False, allow_infinity=False), st.lists, max_leaves=5))
def test_data_for_the_script_survives_and_cannot_close_its_element(value):
    block = json_block({"value": value}, {"class": "facts"})
    reader = read(block)
    assert len(reader.elements) == 1
    assert block.count("<") == 2
    assert json.loads(reader.content) == {"value": value}


def test_markup_is_not_escaped_twice():
    assert text(text("a < b")) == "a &lt; b"
    assert join(["<", tag("br")], " ") == "&lt; <br>"


def test_tables():
    made = read(
        table("c", [Column("name", number=False), Column("PSNR")], [["a", "1.0"], ["b", tag("b", None, "2.0")]])
    )
    names = [name for name, _ in made.elements]
    assert names.count("th") == 4
    assert names.count("td") == 2
    assert [a["scope"] for name, a in made.elements if name == "th"] == ["col", "col", "row", "row"]
    with pytest.raises(ValueError):
        table("c", [Column("name")], [["a", "b"]])
