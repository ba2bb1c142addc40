from __future__ import annotations

import io

from rich.console import Console

from bfo_diag.errors import DiagError
from bfo_diag.records import Finding, Place, Severity
from bfo_diag.render import console
from bfo_diag.shown import Report, Table

HOSTILE = "</script><b> [bold]x[/bold] [link=http://a]y[/link] [/tmp/x.py] \x1b[31mred\x1b[0m \x07 \u202eevil"


def rendered(report: Report) -> str:
    out = Console(file=io.StringIO(), width=200, markup=True, force_terminal=False)
    console.show(report, out)
    return out.file.getvalue()


def test_text_of_a_run_is_shown_as_it_is_and_never_as_markup():
    finding = Finding(HOSTILE, Severity.ERROR, HOSTILE, HOSTILE, HOSTILE, Place(file=HOSTILE, line=1, source=HOSTILE))
    note = Finding("N", Severity.NOTE, HOSTILE)
    table = Table(HOSTILE, (HOSTILE,), ((HOSTILE,),), HOSTILE)
    text = rendered(Report(HOSTILE, False, (table,), (finding, note), (HOSTILE,)))
    assert text.count("[link=http://a]y[/link]") == 13  # each place that shows text of the run
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "\\x1b[31mred" in text


def test_the_verdict_stands_last_and_notes_are_counted():
    text = rendered(
        Report("All good.", True, (), (Finding("A", Severity.NOTE, "m"), Finding("B", Severity.NOTE, "n")), ())
    )
    assert text.rstrip().endswith("All good.")
    assert "2 notes:" in text


def test_an_error_shows_its_detail_and_ends_with_the_mend():
    out = Console(file=io.StringIO(), width=200)
    console.show_error(DiagError("what [was] wrong", mend="do this", detail="Traceback\n  line"), out)
    lines = out.file.getvalue().splitlines()
    assert lines[0] == "error: what [was] wrong"
    assert lines[1:3] == ["  | Traceback", "  |   line"]
    assert lines[-1] == "mend:  do this"
