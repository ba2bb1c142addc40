"""What is seen while a run goes on: in a real terminal, and in a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bfo_diag import child, store
from bfo_diag.cli.progress import duration
from bfo_diag.probes import Probe
from bfo_diag.shown import Cell, Progress, Table

RUN = """
import sys
from pathlib import Path
from bfo_diag import store
from bfo_diag.cli.progress import watching
from bfo_diag.shown import Progress
from bfo_diag.render.console import console
from bfo_diag.shown import Cell, Table

folder, rows = Path(sys.argv[1]), int(sys.argv[2])
with watching(console(stderr=True), "telemetry") as look:
    for step in range(1, 4):
        body = [(f"encoder.layers.{n}.weight", f"{step / 10**n:g}", "fine") for n in range(rows)]
        body[-1:] = [("head \\x1b[41m[red]bias", "-", Cell("nan", "bad"))] if rows else []
        table = Table("Gradient norms", ("parameter", "norm", "state"), tuple(body)) if rows else None
        store.write_progress(folder, vars(Progress(step, 3, f"step {step}", 65.0, table)))
        if look is not None:
            look(folder)
        if step == 2:
            for damaged in sys.argv[3:]:
                (folder / "raw" / "progress.json").write_text(damaged)
                if look is not None:
                    look(folder)
"""
DAMAGED = (
    *("", "{", "null", "[]", "{}", '{"done": 1}', '{"done": "1", "doing": "x"}', '{"done": NaN, "doing": "x"}'),
    *('{"done": {"$float": "nan"}, "doing": "x"}', '{"done": 1e999, "doing": "x"}', '{"done": 1, "doing": ["x"]}'),
    '{"done": 1' + "0" * 400 + ', "doing": "x"}',
)


@dataclass
class Screen:
    """What a terminal shows of the bytes that it is sent: as much of one as a progress line needs."""

    lines: list[str] = field(default_factory=lambda: [""])
    row: int = 0
    column: int = 0
    styles: set[str] = field(default_factory=set)
    before_the_end: list[str] = field(default_factory=list)
    """The lines when the cursor is shown again, before all is wiped away."""

    def feed(self, text: str) -> None:
        for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", text):
            if part.startswith("\x1b["):
                self._control(part[2:-1], part[-1])
            elif part == "\r":
                self.column = 0
            elif part == "\n":
                self.row += 1
                self.lines += [""] * (self.row + 1 - len(self.lines))
            else:
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + part + line[self.column + len(part) :]
                self.column += len(part)

    def _control(self, numbers: str, what: str) -> None:
        if what == "m":
            self.styles.add(numbers)
        elif what == "A":
            self.row -= int(numbers or 1)
            assert self.row >= 0, "above the first line"
        elif what == "K":
            assert numbers == "2"
            self.lines[self.row] = ""
        else:
            assert numbers == "?25", f"unknown control {numbers}{what}"
            if what == "h":
                self.before_the_end = [line.rstrip() for line in self.lines if line.strip()]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / store.RAW_FOLDER).mkdir()
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    }
    return {**kept, "TERM": "xterm-256color", **more}


def in_a_terminal(folder: Path, rows: int, *damaged: str, size: tuple[int, int] = (24, 80), **more: str) -> Screen:
    """Run with a terminal of (lines, columns) as stderr, and return what it shows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    command = [sys.executable, "-c", RUN, str(folder), str(rows), *damaged]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment(**more))
    os.close(theirs)
    sent = b""
    try:
        while chunk := os.read(ours, 65536):
            sent += chunk
    except OSError:  # Linux ends a terminal's stream so
        pass
    os.close(ours)
    assert process.wait() == 0, sent.decode()
    screen = Screen()
    screen.feed(sent.decode())
    return screen


def test_the_table_stands_under_the_progress_line_and_is_gone_when_the_run_is_over(folder):
    screen = in_a_terminal(folder, 4)
    line, title, heads, *body = screen.before_the_end
    assert "telemetry 3/3: step 3" in line
    assert line.endswith("about 65 s left")
    assert (title, heads.split()) == ("Gradient norms", ["parameter", "norm", "state"])
    assert body[1].split() == ["encoder.layers.1.weight", "0.3", "fine"]
    assert body[-1].split("  ")[0] == "head \\x1b[41m[red]bias"
    assert body[-1].endswith("nan")
    assert "1;31" in screen.styles
    assert not any(line.strip() for line in screen.lines)


@pytest.mark.parametrize("size", [(24, 80), (8, 40), (6, 24)])
def test_a_small_terminal_shows_what_it_has_room_for(folder, size):
    screen = in_a_terminal(folder, 30, size=size)
    assert len(screen.before_the_end) < size[0]
    assert all(len(line) <= size[1] for line in screen.before_the_end)
    assert any(re.match(r"\d+ more rows", line) for line in screen.before_the_end)
    assert not any(line.strip() for line in screen.lines)


def test_without_a_table_and_without_room_for_it_there_is_one_line(folder):
    assert len(in_a_terminal(folder, 0).before_the_end) == 1
    assert len(in_a_terminal(folder, 30, size=(5, 80)).before_the_end) == 1


def test_no_color_is_honoured_and_a_bad_cell_still_stands_out(folder):
    styles = in_a_terminal(folder, 3, NO_COLOR="1").styles
    assert "1" in styles
    assert not any(re.search(r"(^|;)([349]\d|10\d)", style) for style in styles)


def test_a_damaged_file_leaves_what_was_said_before(folder):
    screen = in_a_terminal(folder, 3, *DAMAGED)
    assert "telemetry 3/3: step 3" in screen.before_the_end[0]


@pytest.mark.parametrize("text", DAMAGED)
def test_what_is_no_progress_is_read_as_none(folder, text):
    (folder / store.RAW_FOLDER / store.PROGRESS_FILE).write_text(text)
    assert store.read_progress(folder) is None


def test_nothing_is_said_in_a_pipe(folder):
    command = [sys.executable, "-c", RUN, str(folder), "3"]
    done = subprocess.run(command, capture_output=True, env=environment(), check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


TABLE = Table("t", ("a", "b"), (("x", Cell("nan", "bad", (7,))), ("y", "1\x1b")), "c")


def test_a_table_is_read_back_as_it_was_written(folder):
    store.write_progress(folder, vars(Progress(1, None, "x", None, TABLE)))
    said = store.read_progress(folder)
    assert said == {"done": 1, "total": None, "doing": "x", "left_s": None, "table": said["table"]}
    assert said["table"].rows == (("x", Cell("nan", "bad")), ("y", "1\x1b"))
    assert (said["table"].title, said["table"].columns, said["table"].caption) == ("t", ("a", "b"), "c")


def test_a_table_that_is_too_long_is_cut_where_it_is_written(folder):
    rows = tuple((str(n), "x" * 50) for n in range(100_000))
    store.write_progress(folder, vars(Progress(1, 2, "x", table=Table("t", ("a", "b"), rows))))
    assert (folder / store.RAW_FOLDER / store.PROGRESS_FILE).stat().st_size < 5_000
    assert store.read_progress(folder)["table"].rows == rows[: store.PROGRESS_ROWS]


@pytest.mark.parametrize(
    "table",
    [
        *("null", "1", "[]", "{}", '{"rows": 1, "columns": ["a"], "title": "", "caption": ""}'),
        '{"rows": [["x", "y"]], "columns": ["a"], "title": "", "caption": ""}',
        '{"rows": [[{"text": "x"}]], "columns": ["a"], "title": "", "caption": ""}',
        '{"rows": [], "columns": [], "title": "", "caption": ""}',
        '{"rows": {"a": 1}, "columns": ["a"], "title": "", "caption": ""}',
    ],
)
def test_a_damaged_table_is_none_and_the_rest_is_read(folder, table):
    path = folder / store.RAW_FOLDER / store.PROGRESS_FILE
    path.write_text(f'{{"done": 1, "total": 2, "doing": "x", "left_s": "soon", "table": {table}}}')
    assert store.read_progress(folder) == {"done": 1, "total": 2, "doing": "x", "left_s": None, "table": None}
    path.write_text('{"done": 1, "total": 2, "doing": "x", "left_s": null}')  # as written before there were tables
    assert store.read_progress(folder)["table"] is None


def captured(folder: Path, said: Progress, **spec: object) -> dict[str, object]:
    """Let a child capture something that only says how far it is."""

    def capture(request: object, **options: object):
        yield said

    nothing = lambda *_: iter(())  # noqa: E731
    probe = Probe("p", "", capture, nothing, dict, nothing, str, bool, parts={"work": capture})
    defaults = {"target": None, "inputs": [], "device": "cpu", "seed": 0, "options": {}}
    child._capture(probe, {**defaults, **spec}, lambda observation: None, folder, None)
    return store.read_progress(folder)


def test_a_probe_says_its_table_and_a_part_its_own_within_what_the_whole_said(folder):
    other = Table("other", ("a",), (("1",),))
    assert captured(folder, Progress(3, 9, "step 4", 5.0, TABLE))["table"].title == "t"
    said = captured(folder, Progress(0, None, "warming up"), part="work")
    assert (said["done"], said["total"], said["doing"], said["table"].title) == (3, 9, "step 4: warming up", "t")
    said = captured(folder, Progress(0, None, "timing", table=other), part="work")
    assert (said["done"], said["doing"], said["table"]) == (3, "step 4: timing", other)
    assert captured(folder, Progress(4, 9, "step 5"))["table"] is None


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (99, "99 s"), (100, "2 min"), (9000, "2.5 h")])
def test_a_duration_is_told_in_its_own_unit(seconds, text):
    assert duration(seconds) == text
