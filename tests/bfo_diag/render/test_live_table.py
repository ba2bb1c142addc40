from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from bfo_diag.render.live_table import live_table
from bfo_diag.shown import Cell, Table

NORMS = Table(
    "Gradient norms",
    ("parameter", "norm", "update / weight", "state"),
    tuple(
        (f"encoder.layers.{n}.linear.weight", f"{10.0**-n:g}", "0.01", Cell("nan", "bad") if n == 2 else "fine")
        for n in range(30)
    ),
    "of the last step",
)


def lines(table: Table, *, width: int = 100, height: int = 40) -> list[str]:
    out = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    out.print(live_table(table, width=width, height=height))
    return [line.rstrip() for line in out.file.getvalue().splitlines()]


def test_a_row_is_a_line_under_the_heads():
    shown = lines(NORMS)
    assert shown[0] == "Gradient norms"
    assert shown[1].split("  ")[0] == "parameter"
    assert shown[4].split() == ["encoder.layers.2.linear.weight", "0.01", "0.01", "nan"]
    assert shown[-1] == "of the last step"
    assert len(shown) == 33


@pytest.mark.parametrize("width", [1, 9, 20, 33, 48, 80])
@pytest.mark.parametrize("height", [1, 4, 10, 33])
@pytest.mark.parametrize(
    "table", [NORMS, Table("", ("a",), ()), Table("数" * 40, ("数" * 9,) * 9, (("数値" * 9,) * 9,) * 9)]
)
def test_it_never_leaves_the_window(table, width, height):
    shown = lines(table, width=width, height=height)
    assert all(cell_len(line) <= width for line in shown)
    assert len(shown) <= max(height, 4)


def test_what_has_no_room_is_counted_and_names_stay_apart():
    shown = lines(NORMS, width=36, height=10)
    assert shown[-1] == "23 more rows; 1 more column; of the…"
    names = [line.split()[0] for line in shown[2:-1]]
    assert len(set(names)) == 7
    assert names[4].startswith("…4.")
    assert [line.split()[1] for line in shown[2:-1]] == ["1", "0.1", "0.01", "0.001", "0.0001", "1e-05", "1e-06"]


def test_text_of_a_run_is_neither_markup_nor_a_control_and_stays_on_its_line():
    hostile = "[bold]x[/bold] \x1b[31mred\x07 \u202eevil\nnext"
    shown = lines(Table(hostile, (hostile, "b"), ((hostile, Cell(hostile, "bad")),), hostile), width=200)
    assert len(shown) == 4
    text = "\n".join(shown)
    assert text.count("[bold]x[/bold] \\x1b[31mred\\x07 \\u202eevil") == 5
    assert not set("\x1b\x07\u202e") & set(text)


def test_a_bad_cell_is_bold_and_red_and_an_unknown_tone_is_nothing():
    out = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard", no_color=False)
    out.print(
        live_table(
            Table("t", ("a", "b"), (("x", Cell("nan", "bad")), ("y", Cell("1", "no such tone")))), width=80, height=9
        )
    )
    text = out.file.getvalue()
    assert "\x1b[1;31mnan" in text
    assert text.count("\x1b[1;31m") == 1
