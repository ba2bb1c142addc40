"""The page in a real browser: nothing leaves it, nothing runs in it but its own script, it reads well everywhere."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bfo_diag.render.html import page
from bfo_diag.render.page_parts import line_id
from bfo_diag.render.text import clean
from bfo_diag.shown import Table

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
ARGUMENTS = (
    *("--no-sandbox --disable-gpu --disable-background-networking").split(),
    *("--disable-component-update --disable-sync --no-first-run").split(),
)
SCHEMES_AND_WIDTHS = [(scheme, width) for scheme in ("light", "dark") for width in (1280, 360)]
PAPER = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}

OUTSIDE = """() => {
  const width = document.documentElement.clientWidth;
  const scrolls = e => e && (/auto|scroll/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  return [...document.body.querySelectorAll("*")].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width > 1 && (box.right > width + 1 || box.left < -1) && !scrolls(e);
  }).map(e => e.outerHTML.slice(0, 120));
}"""
FAINT = """() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const faint = new Set();
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || /SCRIPT|title|desc/.test(e.tagName)) continue;
    const style = getComputedStyle(e);
    const a = light(parse(e.closest("svg") ? style.fill : style.color)) + 0.05, b = light(behind(e).slice(0, 3)) + 0.05;
    if (Math.max(a, b) / Math.min(a, b) < 4.5) faint.add(e.outerHTML.slice(0, 120));
  }
  return [...faint];
}"""
NAMELESS = """() => [...document.querySelectorAll("a, button, input, summary")].filter(e =>
  !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length)).map(e => e.outerHTML)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as tool:
        made = tool.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield made
        made.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory, review, hostile) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    made = {}
    for name, one in {"review": review, "hostile": hostile}.items():
        made[name] = folder / f"{name}.html"
        made[name].write_text(page(one), encoding="utf-8")
    return made


class Opened:
    """A page in a context of its own, with all that it did since it was opened."""

    def __init__(self, browser: playwright.Browser, file: Path, *, width: int = 1280, **how: object) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **how)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *exception: object) -> None:
        self.context.close()

    def ask(self, script: str) -> object:
        return self.page.evaluate(script)


@pytest.mark.parametrize("name", ["review", "hostile"])
def test_nothing_leaves_the_page_and_nothing_complains(browser, files, name):
    with Opened(browser, files[name]) as opened:
        opened.page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        for button in opened.page.get_by_role("button").all():
            button.click()
        opened.page.wait_for_timeout(100)
        assert opened.said == []
        assert opened.requests == [files[name].as_uri()]


def test_hostile_text_shows_as_text(browser, files, hostile_text):
    with Opened(browser, files["hostile"]) as opened:
        shown = " ".join(clean(hostile_text).split())
        assert opened.ask("document.title.replace(/\\s+/g, ' ')") == shown
        heading = opened.page.locator("h1").inner_text()
        assert " ".join(heading.split()) == shown
        assert opened.ask("document.querySelectorAll('img, iframe, object, form, script').length") == 1
        assert opened.ask("document.querySelectorAll('a:not([href^=\"#\"])').length") == 0


@pytest.mark.parametrize("name", ["review", "hostile"])
@pytest.mark.parametrize(("scheme", "width"), SCHEMES_AND_WIDTHS)
def test_the_page_fits_its_window_and_can_be_read(browser, files, tmp_path, name, scheme, width):
    with Opened(browser, files[name], width=width, color_scheme=scheme) as opened:
        opened.page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        assert opened.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert opened.ask(OUTSIDE) == []
        assert opened.ask(FAINT) == []
        assert opened.ask("getComputedStyle(document.body).backgroundColor") == PAPER[scheme]
        shot = opened.page.screenshot(path=tmp_path / "shot.png")
        assert len(shot) > 15_000  # a blank one has some 5,000 bytes


def test_a_figure_leads_to_its_log_line_and_opens_what_hides_it(browser, files, review):
    run = review.sections[0].run_id
    with Opened(browser, files["review"]) as opened:
        line = opened.page.locator(f"[id='{line_id(run, 11)}']")
        assert not line.is_visible()
        opened.page.locator(f"a.figure[href='#{line_id(run, 11)}']").first.click()
        assert line.is_visible()
        assert line.evaluate("e => e.getBoundingClientRect().top < innerHeight && e.matches(':target')")


def test_the_keyboard_reaches_the_skip_link_first_and_every_link_has_a_name(browser, files):
    with Opened(browser, files["review"]) as opened:
        opened.page.keyboard.press("Tab")
        first = opened.page.locator(":focus")
        assert first.inner_text() == "Skip to the verdict"
        opened.page.wait_for_function("document.activeElement.getBoundingClientRect().top >= 0")
        assert opened.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        opened.page.keyboard.press("Enter")
        opened.page.keyboard.press("Tab")
        assert opened.ask("document.querySelector('main').contains(document.activeElement)")
        assert opened.ask(NAMELESS) == []


@pytest.mark.parametrize("name", ["review", "hostile"])
def test_landmarks_headings_tables_and_images_are_told_to_a_screen_reader(browser, files, name):
    with Opened(browser, files[name]) as opened:
        assert opened.page.get_by_role("main").count() == 1
        assert opened.page.get_by_role("navigation").count() == 1
        levels = opened.ask("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(e => +e.tagName[1])")
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False))
        assert opened.ask("[...document.querySelectorAll('table')].every(t => t.caption?.textContent.trim())")
        assert opened.ask("[...document.querySelectorAll('svg')].every(s => s.getAttribute('role') === 'img')")
        assert opened.ask(
            "(ids => new Set(ids).size === ids.length)([...document.querySelectorAll('[id]')].map(e => e.id))"
        )
        for region in opened.page.get_by_role("region").all():
            assert region.get_attribute("aria-label") or region.get_attribute("aria-labelledby")
    if name == "review":
        with Opened(browser, files[name]) as opened:
            assert opened.page.get_by_role("img", name="Speed-up over eager").count() == 1


def test_without_javascript_everything_is_there(browser, files, review):
    with Opened(browser, files["review"], java_script_enabled=False) as opened:
        for said in ("1 of 4 parameters got no gradient", "numpy cuts the gradient", "Is the NumPy detour meant?"):
            assert opened.page.get_by_text(said).first.is_visible()
        opened.page.locator("details.notes > summary").click()
        assert opened.page.get_by_text("note 2").first.is_visible()
        assert opened.page.get_by_role("button").count() == 0


CELLS = """() => {
  const map = [...document.querySelectorAll("svg")].find(e => e.querySelector(".heat"));
  const drawn = [...map.querySelectorAll(".heat")].filter(e => e.getCTM().d / map.getCTM().d === 15);
  map.scrollIntoView({block: "center"});
  const at = (column, row, y) => { const place = new DOMPoint(column + 0.5, row + y).matrixTransform(
    drawn[0].getScreenCTM()); return document.elementFromPoint(place.x, place.y).getAttribute("class"); };
  return {
    shades: [0, 1, 2, 3, 4, 5, 6, 7].map(n => getComputedStyle(map.querySelector(`.heat-${n}`)).stroke),
    zero: [at(30, 5, 0), at(30, 5, 0.3)], broken: [at(41, 7, 0), at(41, 7, 0.3)],
    stopped: [at(24, 13, 0), at(25, 13, 0)], ends: [at(0, 0, 0.3), at(59, 17, 0.3)],
  };
}"""


@pytest.mark.parametrize(("scheme", "width"), SCHEMES_AND_WIDTHS)
def test_each_cell_of_a_map_is_painted_as_what_it_is_in_both_schemes(browser, files, scheme, width):
    with Opened(browser, files["review"], width=width, color_scheme=scheme) as opened:
        seen = opened.ask(CELLS)
        assert seen["zero"] == ["heat heat-zero-line", "heat heat-zero"]
        assert seen["broken"] == ["heat heat-broken-line", "heat heat-broken"]
        assert re.fullmatch(r"heat heat-\d", seen["stopped"][0])
        assert seen["stopped"][1] in ("chart", "scroll plain")  # nothing is painted there
        assert seen["ends"] == ["heat heat-7", "heat heat-0"]
        lights = [_light(shade) for shade in seen["shades"]]
        if scheme == "light":
            lights.reverse()
        assert all(b - a > 10 for a, b in itertools.pairwise(lights))  # of 255: they differ without their hue, too


ARMS = """() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => (v /= 255) <= 0.03928 ? v / 12.92
    : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05; };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const chart = [...document.querySelectorAll("svg")].find(e => e.querySelector(".arm"));
  return ["arm-0", "arm-1", "arm-2", "arm-3", "arm-4", "failed", "control"].map(name => {
    const style = getComputedStyle(chart.querySelector(`.arm.${name}`));
    const stroke = light(style.stroke);
    return [Math.max(stroke, paper) / Math.min(stroke, paper), parseFloat(style.strokeWidth)];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_better_an_arm_the_stronger_its_stroke_in_both_schemes(browser, files, scheme):
    with Opened(browser, files["review"], color_scheme=scheme) as opened:
        *shades, failed, control = opened.ask(ARMS)
        assert all(a[0] > b[0] + 0.4 and a[1] > b[1] for a, b in itertools.pairwise(shades))
        assert all(contrast >= 3 for contrast, _ in (*shades, failed, control))


def test_an_arm_under_the_pointer_stands_out_and_says_its_name(browser, files):
    with Opened(browser, files["review"]) as opened:
        line = opened.page.locator("path.arm", has_text="arm 0: 1.5")
        line.scroll_into_view_if_needed()
        place = line.evaluate(
            "e => { const at = e.getPointAtLength(e.getTotalLength() * 0.9).matrixTransform(e.getScreenCTM());"
            " return [at.x, at.y]; }"
        )
        before = float(line.evaluate("e => getComputedStyle(e).strokeWidth").removesuffix("px"))
        opened.page.mouse.move(*place)
        assert opened.ask(f"document.elementFromPoint({place[0]}, {place[1]}).textContent") == "arm 0: 1.5"
        assert float(line.evaluate("e => getComputedStyle(e).strokeWidth").removesuffix("px")) > before


@pytest.mark.parametrize("width", [1280, 360])
def test_a_wide_chart_scrolls_in_a_region_of_its_own_and_keeps_its_text_readable(browser, files, width):
    with Opened(browser, files["review"], width=width) as opened:
        chart = opened.page.locator("svg.wide")
        assert chart.count() == 1
        sizes = chart.evaluate("e => [e.getBoundingClientRect().width, e.viewBox.baseVal.width]")
        assert sizes[0] == sizes[1]  # a text of 11 units is 11 pixels high
        assert chart.evaluate("e => getComputedStyle(e.parentElement).overflowX") == "auto"
        assert chart.evaluate("e => e.parentElement.tabIndex") == 0
        assert opened.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def _light(colour: str) -> float:
    red, green, blue = map(int, re.findall(r"\d+", colour))
    return 0.21 * red + 0.72 * green + 0.07 * blue


def test_on_paper_the_page_is_white_and_its_notes_are_open(browser, files):
    with Opened(browser, files["review"], color_scheme="dark") as opened:
        opened.page.emulate_media(media="print", color_scheme="dark")
        assert opened.ask("getComputedStyle(document.body).backgroundColor") == PAPER["light"]
        assert opened.ask(FAINT) == []
        assert not opened.page.get_by_role("navigation").is_visible()
        assert opened.ask("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
        opened.ask("dispatchEvent(new Event('beforeprint'))")
        assert opened.ask("document.querySelector('details.notes').open")
        opened.ask("dispatchEvent(new Event('afterprint'))")
        assert not opened.ask("document.querySelector('details.notes').open")


def test_a_long_table_can_be_filtered(browser, tmp_path, review):
    table = Table("Long", ("name", "value"), tuple((f"row {n}", str(n)) for n in range(40)))
    report = replace(review.sections[0].report, tables=(table,))
    file = tmp_path / "long.html"
    file.write_text(page(replace(review, sections=(replace(review.sections[0], report=report),))), encoding="utf-8")
    with Opened(browser, file) as opened:
        opened.page.get_by_label("Filter rows").fill("ROW 1")
        assert opened.page.locator(".filter output").inner_text() == "11 of 40 rows"
        assert opened.page.locator("table tbody tr:visible").count() == 11
        opened.page.get_by_label("Filter rows").fill("")
        assert opened.page.locator("table tbody tr:visible").count() == 40
