from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from bfo_diag import store
from bfo_diag.errors import RecordError, WorkspaceError
from bfo_diag.records import CaseRecord, Observation, Outcome
from bfo_diag.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    return Workspace.find(tmp_path)


def new_run(workspace, name="case"):
    return store.create(
        workspace, probe="gradients", case=CaseRecord("id", name), argv=["x"], environment={}, options={}
    )


def test_a_run_is_read_back_as_it_was_written(workspace):
    folder, header = new_run(workspace)
    seen = [Observation("step", {"loss": float("nan")}), Observation("environment", {"torch": "2.13"})]
    with store.ObservationWriter(folder) as log:
        for observation in seen:
            log.write(observation)
    assert store.read(folder).outcome is Outcome.RUNNING
    run = store.finish(folder, header, Outcome.COMPLETE)
    again = store.read(folder)
    assert [o.kind for o in again.observations] == ["step", "environment"]
    assert again.outcome is Outcome.COMPLETE
    assert again.header == run.header
    assert again.header.environment["torch"] == "2.13"
    assert store.runs(workspace) == [folder]


def test_runs_of_the_same_second_get_folders_of_their_own(workspace):
    assert len({new_run(workspace)[0] for _ in range(5)}) == 5


def test_a_line_cut_short_is_passed_over_and_the_next_one_is_whole(workspace):
    folder, _ = new_run(workspace)
    with store.ObservationWriter(folder) as log:
        log.write(Observation("step"))
    with (folder / store.OBSERVATIONS_FILE).open("ab") as file:
        file.write(b'{"schema": 1, "kind": "st')
    with store.ObservationWriter(folder) as log:
        log.write(Observation("died"))
    run = store.read(folder)
    assert [o.kind for o in run.observations] == ["step", "damaged", "died"]
    assert "line 2" in run.damaged[0]
    assert [number for number, _ in run.of_kind("died")] == [3]


def test_no_run_and_a_foreign_run_are_refused_by_name(workspace, tmp_path):
    with pytest.raises(RecordError, match="no run in"):
        store.read(tmp_path / "nowhere")
    folder, header = new_run(workspace)
    data = json.loads((folder / store.RUN_FILE).read_text())
    (folder / store.RUN_FILE).write_text(json.dumps({**data, "schema": 99}))
    with pytest.raises(RecordError, match="schema 99"):
        store.read(folder)
    assert header.run_id == folder.name


def test_an_unwritable_workspace_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="can't be written") as raised:
        Workspace.find(tmp_path / "file")
    assert "--workspace" in raised.value.mend


def test_a_failed_replacement_of_the_header_leaves_the_old_one(workspace, monkeypatch):
    folder, header = new_run(workspace)
    before = (folder / store.RUN_FILE).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(WorkspaceError, match="No space left on device"):
        store.write_header(folder, header, Outcome.COMPLETE)
    assert (folder / store.RUN_FILE).read_bytes() == before
    assert not list(folder.glob("*.partial"))


WRITER = """
import sys
from pathlib import Path
from bfo_diag import store
from bfo_diag.records import CaseRecord, Observation, Outcome
from bfo_diag.workspace import Workspace
folder, header = store.create(
    Workspace.find(Path(sys.argv[1])), probe="p", case=CaseRecord("", "c"), argv=[], environment={}, options={}
)
print(folder, flush=True)
with store.ObservationWriter(folder) as log:
    number = 0
    while True:
        number += 1
        log.write(Observation("step", {"number": number, "filler": "x" * (number * 37 % 9000)}))
        if number % 5 == 0:
            store.write_header(folder, header, Outcome.RUNNING)
"""


def test_a_kill_at_random_moments_leaves_logs_that_load(workspace):
    rng = random.Random(0)
    longest = 0
    for _ in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(workspace.root)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(rng.uniform(0, 0.15))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    for folder in store.runs(workspace):
        run = store.read(folder)
        whole = [o for o in run.observations if o.kind == "step"]
        assert [o.values["number"] for o in whole] == list(range(1, len(whole) + 1))
        assert len(run.observations) - len(whole) <= 1  # the line that the kill cut short
        longest = max(longest, len(whole))
    assert len(store.runs(workspace)) == 12
    assert longest > 10
