from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import replace

import pytest

from bfo_diag.records import Finding, Severity
from bfo_diag.render.html import MOST_BYTES, page
from bfo_diag.render.page_parts import line_id
from bfo_diag.render.templates import folder, render
from bfo_diag.render.text import clean, clip, safe_url
from bfo_diag.shown import Cell, Chart, Report, Review, Section, Series, Table

OWN_TAGS = {
    *(
        "html head meta title style script body header main footer nav section article div span a p b strong sup"
    ).split(),
    *("h1 h2 h3 ul ol li dl dt dd pre code mark details summary figure figcaption svg desc path text").split(),
    *("table caption thead tbody tr th td").split(),
}


@pytest.fixture(scope="module")
def large_page(large):
    return page(large)


def log_links(node):
    return [link["href"] for link in node.all("a") if re.search(r"-L\d+$", link["href"])]


def test_the_page_says_the_verdict_first_then_what_is_missing_then_the_findings_gravest_first(review, parse):
    main = parse(page(review)).by_id("main")
    heads = [node.text for node in main.all("h2")]
    assert heads[:4] == ["Errors were found", "Not measured, and why", "Questions for the expert", "Findings"]
    assert heads[4:] == [
        f"{probe} examples/lost_gradient.py:train_step" for probe in ("compile", "gradients", "bench")
    ] + ["Environment"]
    verdict = main.with_class("verdict")[0].text
    for said in review.verdict:
        assert said in verdict
    found = [node.text.split() for node in main.all("h3")]
    assert found[:3] == [["error", "GRAD-CUT-NUMPY"], ["warning", "COMPILE-LIMIT"], ["note", "NOTE-0"]]


def test_a_finding_shows_its_place_source_fix_link_and_the_log_lines_that_prove_it(review, parse):
    finding = parse(page(review)).by_id("finding-1")
    assert finding.with_class("place")[0].text == "/home/me/deep/examples/lost_gradient.py:22 in normalise"
    lines = [line.text.split(None, 1) for line in finding.with_class("line")]
    assert [number for number, _ in lines] == ["21", "22", "23"]
    assert next(finding.all("mark")).text == "22 this line:     values = features.numpy()\n"
    assert "Mend use torch functions" in finding.text
    outside = [link for link in finding.all("a") if link["href"].startswith("https:")]
    assert [link["rel"] for link in outside] == ["noopener noreferrer"]
    run = review.sections[1].run_id
    assert log_links(finding) == [f"#{line_id(run, 4)}", f"#{line_id(run, 11)}"]
    assert "L99" in finding.text  # a line that is not on the page is named, and leads nowhere


def test_every_link_within_the_page_has_its_target_and_no_id_stands_twice(review, hostile, large_page, parse):
    for text in (page(review), page(hostile), large_page):
        root = parse(text)
        ids = [node["id"] for node in root.all() if "id" in node.attributes]
        assert len(ids) == len(set(ids))
        links = {link["href"][1:] for link in root.all("a") if link["href"].startswith("#")}
        assert links <= set(ids)
        named = {name for node in root.all() for name in node["aria-labelledby"].split()}
        assert named <= set(ids)


def test_a_figure_of_a_table_is_the_link_to_its_log_line(review, parse):
    root = parse(page(review))
    run = review.sections[0].run_id
    cells = {cell.text: cell for cell in root.by_id(f"{run}-table-1").all("td")}
    assert log_links(cells["2.33 -> 2.20"]) == [f"#{line_id(run, 11)}"]
    assert log_links(cells["2.33 -> 2.20L14"]) == [f"#{line_id(run, 12)}", f"#{line_id(run, 14)}"]
    assert "bad: failed" in cells["▲\xa0bad: failed"].text
    assert root.by_id(line_id(run, 11)).text.split(None, 1) == ["L11", review.sections[0].log[11]]


def test_tables_have_captions_and_heads_with_a_scope_and_columns_of_numbers_are_told(review, parse):
    root = parse(page(review))
    tables = list(root.all("table"))
    assert len(tables) == 2 + 7  # and one for each chart
    for table in tables:
        assert next(table.all("caption")).text.strip()
        assert all(head["scope"] == ("col" if head.parent.parent.tag == "thead" else "row") for head in table.all("th"))
    steps = next(table for table in tables if "Steps" in table.text)
    assert [head["class"] for head in steps.all("th") if head["scope"] == "col"] == ["", "number"]


def test_a_run_shows_its_command_outcome_and_log(review, parse):
    root = parse(page(review))
    run = next(node for node in root.with_class("run") if node.tag == "section" and "bench" in node.text)
    assert next(run.all("pre")).text == review.sections[2].command
    assert "timed out" in run.text
    assert "2026-11-21 12:28:02 UTC" in run.text
    assert len([node for node in run.all("svg") if node["role"] == "img"]) == 7


@pytest.mark.parametrize(
    ("missing", "findings", "outcomes", "says"),
    [
        ((), (), ("complete",), "Clean"),
        ((), (), ("complete", "timed_out"), "Clean, as far as it was measured"),
        ((("bench", "no time"),), (), ("complete",), "Clean, as far as it was measured"),
        ((), (Finding("A", Severity.ERROR, "m"),), ("complete",), "Errors were found"),
        ((), (Finding("A", Severity.WARNING, "m"),), ("complete",), "This needs attention"),
        ((), (), (), "Nothing was measured"),
    ],
)
def test_the_headline_follows_from_findings_and_from_what_is_missing(missing, findings, outcomes, says, parse):
    clean_so_far = not findings
    report = Report("v", clean_so_far, (), findings)
    sections = tuple(Section("r", "compile", "t", "c", "now", outcome, report, "logs/r") for outcome in outcomes)
    text = page(Review("t", (), clean_so_far, sections, missing=missing))
    assert parse(text).by_id("verdict").text == says


def test_the_log_lines_of_a_map_are_those_of_the_rows_it_draws(parse):
    series = tuple(Series(f"s{n}", ((0.0, 1.0), (1.0, math.nan if n == 77 else 1.0)), (), (n,)) for n in range(90))
    chart = Chart("heatmap", "Norms", "step", "norm", series, log_y=True)
    section = Section(
        "r", "t", "t", "c", "now", "complete", Report("v", True, (), (), (), (chart,)), "logs/r", {77: "x"}
    )
    figure = next(parse(page(Review("t", (), True, (section,)))).all("figure"))
    named = next(node.text for node in figure.with_class("remark") if node.text.startswith("Log lines"))
    assert named.startswith("Log lines: s0 L0; s1 L1; ")
    assert named.endswith("; s38 L38; s77 L77")
    assert log_links(figure) == ["#r-L77"]
    assert "50 more series are in the table, and not drawn." in figure.text


def test_hostile_text_is_text_everywhere(hostile, hostile_text, parse):
    text = page(hostile)
    root = parse(text)
    assert {node.tag for node in root.all()} <= OWN_TAGS
    assert len(list(root.all("script"))) == len(list(root.all("style"))) == len(list(root.all("title"))) - 14 == 1
    for node in root.all():
        assert not any(
            name.startswith("on") or name in ("style", "src", "srcset", "xlink:href") for name in node.attributes
        )
        assert node["href"] == "" or node["href"].startswith("#")
    for unseen in "\x1b\x07\u202e\u2028\ud800":
        assert unseen not in text
    shown = clean(hostile_text)
    body = next(root.all("body"))
    assert "{{7*7}}" in shown
    assert " ".join(body.text.split()).count(" ".join(shown.split())) > 60
    for kind in ("h1", "h3", "h2", "td", "th", "dt", "dd", "li", "pre", "mark", "summary", "figcaption", "caption"):
        assert any("alert(1)" in node.text for node in body.all(kind)), kind


def test_the_policy_lets_only_the_pages_own_style_and_script_pass(review, parse):
    root = parse(page(review))
    policy = next(node["content"] for node in root.all("meta") if "Security" in node["http-equiv"])
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        digest = hashlib.sha256(next(root.all(tag)).text.encode()).digest()
        assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert "unsafe" not in policy


def test_the_same_review_gives_the_same_bytes(review, hostile):
    assert page(review) == page(replace(review))
    assert page(hostile).encode() == page(hostile).encode()


def test_a_large_review_stays_below_the_bound_and_says_what_it_leaves_out(large_page, parse):
    assert len(large_page.encode()) <= MOST_BYTES
    root = parse(large_page)
    assert "more characters in logs/run-large/observations.jsonl, line" in root.text
    assert "Left out, for room; the logs hold them: CODE (" in root.text


def test_a_table_of_400_rows_and_2000_log_lines_are_all_shown(parse):
    run = "20261121T122802Z-gradients-a_target_with_a_long_name-train_step"
    rows = tuple((f"row {n}", *(Cell(f"{n}.{k}", "", (5 * n + k,)) for k in range(4))) for n in range(400))
    report = Report("v", True, (Table("t", tuple("abcde"), rows),), ())
    log = dict.fromkeys(range(2000), '{"kind": "cell", "values": {"loss": 1.25}}' * 8)
    section = Section(run, "gradients", "t", "c", "now", "complete", report, f"logs/{run}/observations.jsonl", log)
    text = page(Review("t", (), True, (section,)))
    assert len(text.encode()) <= MOST_BYTES
    root = parse(text)
    assert len(list(root.by_id(f"{run}-table-1").all("tr"))) == 401
    assert len(log_links(root)) == 1600
    assert sum(bool(re.fullmatch(rf"{run}-L\d+", node["id"])) for node in root.all("li")) == 2000


def test_a_long_log_line_is_cut_with_a_word_and_a_short_one_is_whole(parse):
    section = Section(
        "r", "compile", "t", "c", "now", "complete", Report("v", True, (), ()), "logs/r", {1: "a" * 9000, 2: "b" * 3000}
    )
    root = parse(page(Review("t", (), True, (section,))))
    assert root.by_id("r-L1").text.endswith("… (5,000 more characters in logs/r, line 1)")
    assert root.by_id("r-L2").text == "L2 " + "b" * 3000


def test_no_single_text_can_fill_the_page(review):
    long = "<x>" * 200_000
    section = replace(review.sections[0], target=long, command=long, outcome=long, log_file=long)
    text = page(Review(long, (long,), False, (section,), ((long, long),), (long,), ((long, long),)))
    assert len(text.encode()) <= MOST_BYTES
    assert "592,000 more characters in the log" in text


def test_runs_with_one_id_get_ids_of_their_own(parse):
    report = Report("v", True, (Table("t", ("a", "b"), (("x", Cell("1", "", (1,))),)),), ())
    section = Section("main <x>", "compile", "t", "c", "now", "complete", report, "logs/r", {1: "one"})
    root = parse(page(Review("t", (), True, (section, section))))
    assert [log_links(table) for table in root.all("table")] == [["#main-x--L1"], ["#main-x--2-L1"]]


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://pytorch.org/docs?a=1&b=2#c", True),
        ("http://example.org", True),
        ("javascript:alert(1)", False),
        ("JavaScript:alert(1)", False),
        ("data:text/html,x", False),
        ("file:///etc/passwd", False),
        ("//example.org", False),
        ("https://", False),
        ("https://[", False),
        ("https://a b", False),
        ("https://a\n.org", False),
        ("https://a\u202e.org", False),
        ("https://a.org/<b>", False),
        ("https://a.org/" + "b" * 2000, False),
        ("", False),
    ],
)
def test_only_web_addresses_become_links(url, safe):
    assert safe_url(url) == (url if safe else "")


def test_texts_are_cleaned_of_what_can_not_be_seen():
    assert clean("a\x1b\u202e\u200f\ud800\U000e0041\tb\n") == "a\\x1b\\u202e\\u200f\\ud800\\U000e0041    b\n"
    assert clean("größer 数 ≤ 👩‍💻") == "größer 数 ≤ 👩‍💻"
    assert clip("abc", 2, where="x") == "abc"
    assert clip("a" * 30, 5, where="there") == "aaaaa… (25 more characters there)"


def test_templates_escape_whatever_is_named_html_or_svg(tmp_path, monkeypatch):
    (tmp_path / "a.html.j2").write_text("{{ x }}", encoding="utf-8")
    (tmp_path / "a.py.j2").write_text("x = {{ x }}", encoding="utf-8")
    from bfo_diag.render import templates

    monkeypatch.setattr(templates, "folder", lambda: tmp_path)
    templates._environment.cache_clear()
    try:
        assert render("a.html.j2", x="<b>\x1b") == "&lt;b&gt;\\x1b"
        assert render("a.py.j2", x="'<b>'") == "x = '<b>'"
        with pytest.raises(Exception, match="'x' is undefined"):
            render("a.html.j2")
    finally:
        templates._environment.cache_clear()
    monkeypatch.undo()
    assert (folder() / "page.html.j2").is_file()
