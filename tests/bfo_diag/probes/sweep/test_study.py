from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial

from bfo_diag.errors import DiagError
from bfo_diag.probes.sweep import leases, storage, study
from bfo_diag.probes.sweep.leases import Worker
from bfo_diag.probes.sweep.study import About, Planned, Study, TakenOverError, find, joined

ABOUT = About({"metric": "val_loss", "seeds": [0, 1, 2]}, "cpu", "a.toml", {"a.toml": "", "nets.py": "x = 1"})
LEVELS = [{"lr": 0.1}, {"lr": 0.2}, None]
PLANNED = [*map(Planned, LEVELS)]
DEAD = Worker("dead", leases.socket.gethostname(), "/nowhere")


@pytest.fixture
def kept():
    return InMemoryStorage()


@pytest.fixture
def made(kept):
    return joined(kept, "s", ABOUT, PLANNED)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(study, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(leases, "SILENCE_S", -1.0)


def claimed(made: Study, worker: Worker = DEAD):
    arm = made.claim(worker)
    assert arm is not None
    return arm


def added(kept, **attributes) -> int:
    """Put a trial into the study that nobody has claimed, and return its number."""
    return kept.create_new_trial(0, template_trial=create_trial(state=TrialState.WAITING, user_attrs=attributes))


def optuna_states(kept) -> list[str]:
    return [trial.state.name for trial in kept.get_all_trials(0)]


def test_arms_are_claimed_in_their_order_each_once_and_end_as_told(made):
    for number, (state, value) in enumerate((("complete", 0.5), ("pruned", None), ("failed", None))):
        arm = claimed(made)
        assert (arm.arm, arm.state, arm.levels) == (number, "waiting", LEVELS[number])
        for seed in (0, 1):
            made.keep(arm, seed, {"val_loss": float("inf"), "seed": seed})
        made.finish(arm, state, value=value, why="" if value else "because")
    assert made.claim(DEAD) is None
    assert [one.state for one in made.arms()] == ["complete", "pruned", "failed"]
    assert [one.why for one in made.arms()] == ["", "because", "because"]
    assert made.arms()[0].results == {seed: {"val_loss": float("inf"), "seed": seed} for seed in (0, 1)}
    assert made.arms()[0].trial.value == 0.5


def test_what_is_given_back_is_done_again_from_the_seed_on_that_was_not_done(made, kept):
    arm = claimed(made)
    made.keep(arm, 0, {"val_loss": 1.0})
    for step, value in ((1, 2.0), (2, 1.0), (3, 0.5)):
        kept.set_trial_intermediate_value(0, step, value)
    assert made.give_back(arm, "interrupted", steps=2)
    again = claimed(made)
    assert (again.arm, again.levels, again.results) == (0, LEVELS[0], {0: {"val_loss": 1.0}})
    assert again.trial.intermediate_values == {1: 2.0, 2: 1.0}, "those of the seed that was cut short are made anew"
    assert kept.get_trial(0).user_attrs["superseded_by"] == again.number == 3
    assert kept.get_trial(0).state is TrialState.FAIL
    assert [one.state for one in made.arms()] == ["running", "waiting", "waiting"]
    with pytest.raises(TakenOverError):
        made.keep(arm, 1, {})
    with pytest.raises(TakenOverError):
        made.finish(arm, "complete", value=1.0)
    assert not made.beat(arm)
    assert made.beat(again)
    assert not made.give_back(arm, "again")
    assert optuna_states(kept) == ["FAIL", "WAITING", "WAITING", "RUNNING"]


def test_the_arms_of_dead_workers_alone_are_done_again(made, impatient, tmp_path):
    with leases.held(tmp_path) as worker:
        alive, dead = claimed(made, worker), claimed(made)
        assert [one.arm for one in made.heal()] == [dead.arm]
        assert [one.state for one in made.arms()] == ["running", "waiting", "waiting"]
        assert made.heal() == []
    assert [one.arm for one in made.heal()] == [alive.arm], "its lease is gone"


def test_of_two_that_heal_at_once_one_makes_the_trial_that_counts(made, kept, impatient, monkeypatch):
    claimed(made)
    second = Study(kept, "s")
    create = kept.create_new_trial

    def meanwhile(*arguments, **options):
        monkeypatch.setattr(kept, "create_new_trial", create)
        number = create(*arguments, **options)
        assert [one.arm for one in second.heal()] == [0], "another does the same between two steps of this one"
        return number

    monkeypatch.setattr(kept, "create_new_trial", meanwhile)
    assert made.heal() == []
    assert [(one.arm, one.state) for one in made.arms()] == [(0, "waiting"), (1, "waiting"), (2, "waiting")]
    assert optuna_states(kept) == ["FAIL", "WAITING", "WAITING", "FAIL", "WAITING"], "the other one is no trial to run"


def test_what_another_did_between_naming_the_next_trial_and_failing_this_one_does_no_harm(made, kept, impatient):
    arm = claimed(made)
    again = added(kept, arm=0, again=0)
    kept.set_trial_user_attr(0, "superseded_by", again)  # and then it was killed
    assert [one.state for one in made.arms()] == ["running", "waiting", "waiting"]
    assert [one.arm for one in made.heal()] == [arm.arm]
    assert claimed(made).number == 4
    assert optuna_states(kept)[3] == "FAIL"


def test_a_study_whose_maker_was_killed_is_filled_by_the_next(kept, impatient):
    kept.create_new_study([ABOUT.direction], "s")
    added(kept, arm=0, levels={})
    made = joined(kept, "s", ABOUT, PLANNED)
    assert [one.arm for one in made.arms()] == [0, 1, 2]
    assert optuna_states(kept) == ["WAITING"] * 3


def test_a_study_of_another_spec_that_was_not_filled_is_left_as_it_is(kept, impatient):
    kept.create_new_study([ABOUT.direction], "s")
    kept.set_study_user_attr(0, "bfo_diag", vars(About({**ABOUT.spec, "trials": 3}, "cpu", "a.toml", ABOUT.files)))
    with pytest.raises(DiagError, match="of another spec"):
        joined(kept, "s", ABOUT, PLANNED)
    assert optuna_states(kept) == []


def test_of_first_trials_made_twice_the_first_counts_and_the_other_is_none_to_run(made, kept):
    twin = added(kept, arm=1)
    assert [one.number for one in made.arms()] == [0, 1, 2]
    made.fill(ABOUT, PLANNED)
    assert kept.get_trial(twin).state is TrialState.FAIL
    assert [claimed(made).number for _ in range(3)] == [0, 1, 2]
    assert made.claim(DEAD) is None


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (About({**ABOUT.spec, "trials": 3}, "cpu", "a.toml", ABOUT.files), "trials: nothing there, 3"),
        (About(ABOUT.spec, "cuda", "a.toml", ABOUT.files), "device: cpu there, cuda here"),
        (About(ABOUT.spec, "cpu", "a.toml", {"a.toml": "", "nets.py": "x = 2"}), "the source of nets.py is another"),
    ],
)
def test_a_study_of_another_spec_is_not_joined(made, kept, about, said):
    with pytest.raises(DiagError, match=f"there is a study s of another spec: {said}") as refused:
        joined(kept, "s", about, PLANNED)
    assert "--study NAME" in refused.value.mend


def test_what_changes_nothing_of_a_spec_joins_it(made, kept):
    same = About({"seeds": [0, 1, 2], "metric": "val_loss"}, "cpu", "b.toml", {"b.toml": "# words", "nets.py": "x = 1"})
    assert joined(kept, "s", same, PLANNED).arms() == made.arms()


def test_a_study_of_another_program_is_left_alone(kept, impatient):
    kept.create_new_study([ABOUT.direction], "s")
    kept.create_new_trial(0)
    with pytest.raises(DiagError, match="made by another program"):
        joined(kept, "s", ABOUT, PLANNED)
    assert kept.get_study_user_attrs(0) == {}


def test_there_is_no_study_where_none_was_made(kept):
    assert find(kept, "s") is None


LABOUR = """
import sys, time
from pathlib import Path
from bfo_diag.probes.sweep import leases, storage
from bfo_diag.probes.sweep.study import About, Planned, joined

folder, url, name = Path(sys.argv[1]), sys.argv[2] or None, sys.argv[3]
about = About({"metric": "val_loss"}, "cpu", "a.toml", {})
print("ready", flush=True)
sys.stdin.readline()
study = joined(storage.opened(url, folder), "s", about, [Planned({"lr": 0.1})] * 4)
with leases.held(folder) as worker:
    while any(arm.state in ("waiting", "running") for arm in study.arms()):
        study.heal()
        arm = study.claim(worker)
        if arm is None:
            time.sleep(0.1)
            continue
        while study.arms()[1].state == "waiting":
            time.sleep(0.1)  # until the other one has its first arm as well
        for seed in {0, 1} - {*arm.results}:
            with (folder / "done.txt").open("a") as done:
                done.write(f"{arm.arm} {seed} {name}\\n")
            if (name, seed) == ("killed", 1):
                print("half-way", flush=True)
                time.sleep(600)
            study.keep(arm, seed, {"by": name})
        study.finish(arm, "complete", value=1.0)
"""


def begun(folder: Path, url: str | None, name: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", LABOUR, str(folder), url or "", name]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def postgresql():
    """Return the URL of a database of its own; PostgreSQL refuses to run as root."""
    pytest.importorskip("psycopg2")
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("PostgreSQL is not installed")
    as_other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "data"
        if as_other:
            try:
                shutil.chown(folder, "postgres")
            except LookupError:
                pytest.skip("there is no user postgres")
        call = functools.partial(subprocess.run, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        call([*as_other, "initdb", "-D", str(data), "-A", "trust", "-U", "postgres", "--no-sync"])
        how = f"-k {folder} -c listen_addresses='' -c fsync=off"
        call([*as_other, "pg_ctl", "-D", str(data), "-w", "-o", how, "-l", f"{folder}/log", "start"])
        try:
            yield f"postgresql+psycopg2://postgres:secret@/postgres?host={folder}"
        finally:
            call([*as_other, "pg_ctl", "-D", str(data), "-m", "immediate", "stop"])


@pytest.mark.parametrize("kind", ["journal", "sqlite", "postgresql"])
def test_of_two_workers_that_begin_together_one_is_killed_and_nothing_is_lost_or_done_twice(tmp_path, kind, request):
    url = {"journal": None, "sqlite": f"sqlite:///{tmp_path}/study.db"}.get(kind)
    url = request.getfixturevalue("postgresql") if kind == "postgresql" else url
    with begun(tmp_path, url, "killed") as killed, begun(tmp_path, url, "other") as other:
        assert [process.stdout.readline() for process in (killed, other)] == ["ready\n"] * 2
        for process in (killed, other):
            process.stdin.write("go\n")
            process.stdin.flush()
        assert killed.stdout.readline() == "half-way\n"
        killed.kill()
        assert other.wait(60) == 0
    made = Study(storage.opened(url, tmp_path), "s")
    done = [line.split() for line in (tmp_path / "done.txt").read_text().splitlines()]
    (arm,) = {one for one, _, by in done if by == "killed"}
    assert sorted(done) == sorted(
        [[arm, "0", "killed"], [arm, "1", "killed"], [arm, "1", "other"]]
        + [[str(one), str(seed), "other"] for one in range(4) for seed in (0, 1) if str(one) != arm]
    )
    assert [one.state for one in made.arms()] == ["complete"] * 4
    assert [{seed: values["by"] for seed, values in one.results.items()} for one in made.arms()] == [
        {0: "killed" if str(one) == arm else "other", 1: "other"} for one in range(4)
    ]
