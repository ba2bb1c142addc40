"""Reviews made of values, a hostile one among them, and a reader of the pages that come out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from html.parser import HTMLParser

import pytest

from bfo_diag.records import Finding, Place, Severity
from bfo_diag.shown import Axis, Cell, Chart, Excerpt, Report, Review, Section, Series, Table

HOSTILE = (
    "</script></style></title><b>&\"' {{7*7}}{%raw%} [link=x]y[/link] [a](javascript:b) \x1b[31mred\x07 \u202eevil"
    " \ud800 <img src=x onerror=alert(1)> <script>alert(2)</script> javascript:alert(3) ``` ```` | a | @everyone"
    " #123 gh-7 https://evil.example www.evil.example a@b.example --> ]]> \u2028 # h"
)
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Node:
    """An element of a parsed page."""

    def __init__(self, tag: str, attributes: dict[str, str | None], parent: Node | None) -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Node | str] = []

    def __getitem__(self, name: str) -> str:
        return self.attributes.get(name) or ""

    def all(self, *tags: str) -> Iterator[Node]:
        for child in self.children:
            if isinstance(child, Node):
                if not tags or child.tag in tags:
                    yield child
                yield from child.all(*tags)

    def with_class(self, name: str) -> list[Node]:
        return [node for node in self.all() if name in node["class"].split()]

    def by_id(self, ident: str) -> Node:
        return next(node for node in self.all() if node["id"] == ident)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class _Reader(HTMLParser):
    """Builds the tree; a tag that is closed out of turn is an error."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.at = Node("", {}, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs), self.at)
        self.at.children.append(node)
        if tag not in VOID:
            self.at = node

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.at.children.append(Node(tag, dict(attrs), self.at))

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.at.tag, f"</{tag}> closes <{self.at.tag}>"
        assert self.at.parent is not None
        self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        self.at.children.append(data)


def _parse(text: str) -> Node:
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.at is reader.root
    return reader.root


@pytest.fixture(scope="session")
def parse() -> Callable[[str], Node]:
    return _parse


@pytest.fixture(scope="session")
def hostile_text() -> str:
    return HOSTILE


def _charts() -> tuple[Chart, ...]:
    curve = tuple((float(step), 2.5 * math.exp(-step / 30)) for step in range(80))
    return (
        Chart(
            kind="intervals",
            title="Speed-up over eager",
            x_axis="mode",
            y_axis="eager time / mode's time",
            series=(
                Series("eager again (A/A)", ((0.0, 0.99),), ((0.97, 1.01),), (12,)),
                Series("default", ((0.0, 1.74),), ((1.72, 1.81),), (12, 14)),
                Series("broken", ()),
            ),
            caption="95 % intervals over processes",
            reference=1.0,
        ),
        Chart(
            kind="lines",
            title="When a compile has paid for itself",
            x_axis="steps",
            y_axis="total time (s)",
            series=(
                Series("eager", ((0.0, 0.0), (55_000.0, 800.0)), evidence=(12,)),
                Series("default, cold cache", ((0.0, 65.0), (55_000.0, 500.0)), evidence=(14,)),
            ),
        ),
        Chart("lines", "Loss", "step", "loss", (Series("loss", curve, evidence=(3,)),), log_y=True),
        Chart("lines", "Nothing", "step", "loss", (Series("loss", ((1.0, math.nan), (2.0, math.inf))),)),
        _norms(),
        _tree(),
        _arms(),
    )


def _tree() -> Chart:
    """Return a layer of 12 neurons: 3 of them are replaced at step 40, one of those at step 80."""
    lives = [
        Series(str(n), ((0.0, n), (40.0 if n < 3 else 100.0, n)), tone="alive" if n > 2 else "") for n in range(12)
    ]
    for n, row, born, ended, parents in (
        (12, 0, 40, 100, "3"),
        (13, 1, 40, 80, "34"),
        (14, 2, 40, 100, ""),
        (15, 1, 80, 100, ("12",)),
    ):
        lives.append(Series(str(n), ((born, row), (ended, row)), parents=tuple(parents), tone="alive" * (ended == 100)))
    return Chart("lineage", "Lineage of mlp.0", "step", "row of mlp.0", tuple(lives), "who descends from whom")


def _arms() -> Chart:
    """Return a sweep of four arms over three factors; one of them failed."""
    axes = (
        Axis("turnover.preset", ((0.0, "none"), (1.0, "functional"), (2.0, "growth")), 0.0, 2.0),
        Axis("optimizer.lr", (), 1e-3, 1e-1, log=True),
        Axis("training.epochs", ((1.0, "1"), (2.0, "2")), 1.0, 2.0),
        Axis("val_loss", (), 1.5, 2.5),
    )
    figures = ((1.0, 1e-2, 2.0, 1.5), (0.0, 1e-2, 2.0, 1.75), (2.0, 1e-3, 1.0, 2.5), (2.0, 1e-1, 2.0))
    series = (
        Series(
            f"arm {n}", tuple((float(i), y) for i, y in enumerate(ys)), tone="control" if n == 1 else "", evidence=(12,)
        )
        for n, ys in enumerate(figures)
    )
    return Chart("parallel", "Arms", "factor", "val_loss", tuple(series), axes=axes)


def _norms() -> Chart:
    """Return a heat map of 18 layers, in which one dies, one overflows, one stops and one has no values."""
    norms = {
        f"encoder.layers.{layer}.{part}.weight": [10.0 ** (-layer / 2 - step / 40) for step in range(60)]
        for layer in range(6)
        for part in ("attention", "linear1", "linear2")
    }
    norms["encoder.layers.1.linear2.weight"][20:50] = [0.0] * 30
    norms["encoder.layers.2.linear1.weight"][41] = math.nan
    norms["encoder.layers.3.linear2.weight"][30:] = [math.inf] * 30
    del norms["encoder.layers.4.linear1.weight"][25:]
    norms["encoder.layers.5.linear1.weight"] = []
    series = (
        Series(name, tuple((float(step), norm) for step, norm in enumerate(row)), evidence=(3, 4))
        for name, row in norms.items()
    )
    return Chart("heatmap", "Gradient norms", "step", "gradient norm (L2)", tuple(series), "by layer", log_y=True)


def _section(probe: str, findings: tuple[Finding, ...], *tables: Table, outcome: str = "complete") -> Section:
    place = findings[0].place if findings else None
    excerpts = {}
    if place is not None and place.file and place.line:
        lines = ("def normalise(features):", place.source or "", "    return features")
        excerpts[place.file, place.line] = Excerpt(place.file, place.line - 1, lines)
    return Section(
        run_id=f"20261121T122802Z-{probe}-lost_gradient-train_step",
        probe=probe,
        target="examples/lost_gradient.py:train_step",
        command=f"bfo-diag {probe} examples/lost_gradient.py:train_step",
        started_utc="2026-11-21T12:28:02Z",
        outcome=outcome,
        report=Report(
            f"{probe}: an answer.", not findings, tables, findings, (), _charts() if probe == "bench" else ()
        ),
        log_file=f"logs/20261121T122802Z-{probe}-lost_gradient-train_step/observations.jsonl",
        log={number: f'{{"kind": "cell", "number": {number}, "text": "{"x" * 40}"}}' for number in (3, 4, 11, 12, 14)},
        excerpts=excerpts,
    )


@pytest.fixture(scope="session")
def review() -> Review:
    """Return three runs with findings of each severity, tables and charts."""
    cut = Place("/home/me/deep/examples/lost_gradient.py", 22, "    values = features.numpy()", "normalise")
    error = Finding(
        "GRAD-CUT-NUMPY",
        Severity.ERROR,
        "numpy cuts the gradient of encoder.weight.",
        "use torch functions",
        "https://pytorch.org/docs/stable/generated/torch.Tensor.numpy.html",
        cut,
        (4, 11, 99),
    )
    warning = Finding("COMPILE-LIMIT", Severity.WARNING, "compiled as often as torch allows", place=cut, evidence=(3,))
    notes = tuple(Finding(f"NOTE-{n}", Severity.NOTE, f"note {n}", evidence=(14,)) for n in range(3))
    matrix = Table(
        "Modes and scenarios",
        ("scenario", "dual", "as-is"),
        (
            ("all-grad", Cell("2.33 -> 2.20", "", (11,)), Cell("2.33 -> 2.20", "", (12, 14))),
            ("no-grad", Cell("failed", "bad", (14,)), Cell("refused", "muted")),
        ),
        "loss, first -> last",
    )
    steps = Table("Steps", ("step", "loss"), (("1", "2.33"), ("2", "-"), ("3", "1.2e-05")))
    return Review(
        title="A training step that does not learn",
        verdict=("gradients: 1 of 4 parameters got no gradient.", "compile: recompiles at every call."),
        clean=False,
        sections=(
            _section("compile", (warning, *notes), matrix),
            _section("gradients", (error,), steps),
            _section("bench", (), outcome="timed_out"),
        ),
        environment=(("torch", "2.13.0+cpu"), ("python", "3.11.7")),
        questions=("Is the NumPy detour meant?", "Would a larger batch help?"),
        missing=(("bench on cuda", "no CUDA device"),),
    )


@pytest.fixture(scope="session")
def hostile() -> Review:
    """Return a review whose every text is hostile."""
    text = HOSTILE
    place = Place(text, 7, text, text, text)
    findings = tuple(
        Finding(text, severity, text, text, url, place, (1, 2))
        for severity, url in zip(Severity, (text, "javascript:alert(4)", "data:text/html,<script>"), strict=True)
    )
    table = Table(text, (text, text), ((text, Cell(text, "bad", (1,))), (Cell(text, text, (9,)), text)), text)
    series = (
        Series(text, ((0.0, 2.0), (1.0, 3.0)), ((1.0, 3.0), (2.0, 4.0)), (1,), (text,), text, "control"),
        Series(text, ((1.0, math.nan),)),
        Series(text, ((1.0, 2.0), (2.0, 2.0)), parents=(text,), group=text, tone=text),
    )
    axes = (Axis(text, ((2.0, text), (3.0, text)), 2.0, 3.0), Axis(text, (), 2.0, 3.0))
    charts = tuple(
        Chart(kind, text, text, text, series, text, reference=1.0, axes=axes)
        for kind in ("lines", "intervals", "heatmap", "lineage", "parallel")
    )
    section = Section(
        run_id=text,
        probe=text,
        target=text,
        command=text,
        started_utc=text,
        outcome=text,
        report=Report(text, False, (table,), findings, (text,), charts),
        log_file=text,
        log={1: text, 2: text},
        excerpts={(text, 7): Excerpt(text, 6, (text, text, text))},
    )
    return Review(text, (text,), False, (section, section), ((text, text),), (text,), ((text, text),))


@pytest.fixture(scope="session")
def large() -> Review:
    """Return a review with long tables, many findings, many points and 2,000 long log lines."""
    row = tuple(Cell(f'figure "{n}" <{n}>', "", (n, n + 1, n + 2)) for n in range(1, 9))
    tables = tuple(Table(f"Table {n}", tuple("abcdefgh"), (row,) * 400) for n in range(4))
    findings = tuple(
        Finding("CODE", Severity.WARNING, "<&\"'> " * 200, "fix " * 50, place=Place(f"f{n}.py", n, "x"), evidence=(n,))
        for n in range(1, 301)
    )
    points = tuple((float(n), math.sin(n)) for n in range(5_000))
    chart = Chart("lines", "Long", "x", "y", tuple(Series(f"s{n}", points) for n in range(15)))
    section = Section(
        "run-large", "gradients", "t", "bfo-diag gradients", "2026-01-01T00:00:00Z", "complete",
        Report("verdict", False, tables, findings, (), (chart,)),
        "logs/run-large/observations.jsonl",
        dict.fromkeys(range(1, 2001), '{"key": "value", "list": [1, 2, 3]}' * 60),
    )  # fmt: skip
    return Review("Large", ("verdict",), False, (section,))
