from __future__ import annotations

import re
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from bfo_diag.render.markdown import MOST_BYTES, block, code, inline, issue
from bfo_diag.render.text import clean
from bfo_diag.shown import Report, Table

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
LINKED = re.compile(r"@\w|#\d|\bgh-\d|://|\bwww\.|\bmailto:", re.IGNORECASE)
"""What GitHub makes links of in text that is no code."""


def inlines(text):
    return [child for token in READER.parse(text) for child in token.children or ()]


def test_the_issue_has_the_order_of_the_page(review):
    text = issue(review)
    heads = [token for token in READER.parse(text) if token.type == "heading_open"]
    assert [token.tag for token in heads[:3]] == ["h2", "h3", "h3"]
    places = [
        text.index(part) for part in ("1 of 4", "no CUDA device", "NumPy detour", "GRAD-CUT", "COMPILE-LIMIT", "NOTE-0")
    ]
    assert places == sorted(places)
    assert "```\n    21  def normalise(features):\n>   22      values = features.numpy()\n" in text
    assert "See <https://pytorch.org/docs/stable/generated/torch.Tensor.numpy.html>" in text
    assert len([token for token in READER.parse(text) if token.type == "table_open"]) == 3


def test_hostile_text_makes_no_html_link_image_mention_or_reference(hostile, hostile_text):
    text = issue(hostile)
    tokens = READER.parse(text)
    raw = {token.content.strip() for token in [*tokens, *inlines(text)] if token.type in ("html_block", "html_inline")}
    assert raw <= {f"<details><summary>{name}</summary>" for name in ("Table", "Environment", "1 note", "2 notes")} | {
        "</details>"
    }
    assert not [child for child in inlines(text) if child.type in ("link_open", "image")]
    plain = [child.content for child in inlines(text) if child.type == "text"]
    assert not [words for words in plain if LINKED.search(words)]
    assert any("@\u200beveryone" in words for words in plain)
    for unseen in "\x1b\x07\u202e\u2028\ud800":
        assert unseen not in text
    fences = [token.content for token in tokens if token.type == "fence"]
    assert fences.count(clean(hostile_text) + "\n") == 2
    rows = [token for token in tokens if token.type == "tr_open"]
    cells = [token for token in tokens if token.type in ("td_open", "th_open")]
    assert len(cells) == 2 * len(rows)


@pytest.mark.parametrize(
    "text", ["--- x", "# x", "1. x", "+ x", "=== x", "> x", "~~~ x", "    x", "| x | y |", "<!-- x", "*x*"]
)
def test_a_line_of_data_is_a_paragraph_of_its_words(text):
    tokens = READER.parse(inline(text))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in tokens[1].children} <= {"text", "text_special"}
    assert "".join(child.content for child in tokens[1].children) == text.strip()


@pytest.mark.parametrize("text", ["a", "`", "``a```b`", "```\nx\n````"])
def test_code_ends_where_the_data_ends(text):
    assert [(token.type, token.content) for token in READER.parse(block(text))] == [("fence", f"{text}\n")]
    (child,) = inlines(code(text))
    assert (child.type, child.content) == ("code_inline", text.replace("\n", " "))


def test_an_issue_stays_below_the_limit_and_names_what_it_leaves_out(large, hostile):
    text = issue(large)
    assert len(text.encode()) <= MOST_BYTES
    assert "*Left out, to stay below GitHub's limit" in text
    wide = Table("t", ("x",) * 50, (("\\`*" * 100,) * 50,) * 500)
    section = replace(large.sections[0], report=Report("v", True, (wide,) * 5, ()))
    assert (
        len(issue(replace(large, sections=(section,) * 40, environment=(("n", "v" * 9000),) * 90)).encode())
        <= MOST_BYTES
    )
    assert issue(hostile) == issue(hostile)
