"""A sweep as its conductor sees it: a part that trains is a function of recipe and seed here, and takes no time."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest

from bfo_diag.attempt import TimeLimitReached
from bfo_diag.errors import DiagError
from bfo_diag.probes import PartResult
from bfo_diag.probes.sweep import conduct, leases, pruning, storage, study
from bfo_diag.probes.sweep.study import Study
from bfo_diag.probes.sweep.trial import nothing
from bfo_diag.records import Observation, dumps
from bfo_diag.shown import Progress
from bfo_diag.training import reading

SPEC = """
seeds = 3
{more}
[recipe]
data = {{ name = "digits" }}
model = {{ name = "mlp" }}
optimizer = {{ name = "SGD", lr = 0.5 }}
training = {{ epochs = 2, clip_norm = 1.0 }}
[factors]
optimizer.lr = {lr}
training.clip_norm = [1.0, 2.0]
"""
LEVELS = "[0.1, 0.2, 0.3]"
RANGE = "{ low = 1e-3, high = 1.0, log = true }"
SAMPLERS = {
    "grid": ('sampler = "grid"', LEVELS),
    "taguchi": ('sampler = "taguchi"', LEVELS),
    "random": ('sampler = "random"\ntrials = 12', RANGE),
    "tpe": ('sampler = "tpe"\ntrials = 14', RANGE),
    "median": ('pruner = "median"\npruner_startup = 2', LEVELS),
}


class Killed(BaseException):
    """Stands in for a signal that no code sees."""


class Request:
    """A request whose parts are done here: it counts them, and may end at one."""

    device = "auto"

    def __init__(self, workspace: Path, text: str, *, at: int | None = None, ends_by: object = Killed) -> None:
        self.text, self.raw = text, workspace / "logs" / "run" / "raw"
        self._at, self._ends_by = at, ends_by
        self.trained: list[tuple[int, int]] = []
        self.given: dict[tuple[int, int], dict] = {}
        self.fails: dict[tuple[int, int], PartResult] = {}

    def part(self, name: str, options: dict, *, must_end: bool = True) -> PartResult:
        if name == "check":
            return PartResult((Observation("checked", {"arms": len(options["recipes"]), "device": "cpu"}),))
        assert not must_end
        if len(self.trained) == self._at:
            if isinstance(self._ends_by, PartResult):
                return self._ends_by
            raise self._ends_by
        which = (options["arm"], options["seed"])
        self.trained.append(which)
        self.given[which] = options
        return self.fails.get(which) or self._result(**options)

    def _result(self, *, arm: int, seed: int, recipe: str, replay: str, events: bool, pruning: dict | None):
        read = reading.read(recipe)
        assert read.seed == seed
        noise = int(hashlib.sha256(f"{read.optimizer.arguments} {seed}".encode()).hexdigest()[:4], 16) / 2**16
        loss = abs(math.log(read.optimizer.arguments["lr"] / 0.1)) + 0.1 * noise + 0.01 * read.training.clip_norm
        values = nothing(arm, seed, status="complete", why="", replay=replay)
        watch = (lambda epoch: False) if pruning is None else Watch(**pruning)
        for epoch, factor in ((1, 2.0), (2, 1.0)):
            values |= {"val_loss": factor * loss, "epochs": epoch}
            if watch({"epoch": epoch, "val_loss": factor * loss}):
                values |= {"status": "pruned", "why": f"epoch {epoch}"}
                break
        return PartResult((Observation("trial", {**values, "part": "trial", "arm": arm}),))


Watch = pruning.Watch


@pytest.fixture
def spec(tmp_path):
    def write(kind: str = "grid") -> str:
        more, lr = SAMPLERS[kind]
        (tmp_path / "mine.toml").write_text(SPEC.format(more=more, lr=lr))
        return str(tmp_path / "mine.toml")

    return write


def done(request: Request, **options) -> list[Observation | Progress]:
    request.raw.mkdir(parents=True, exist_ok=True)
    return list(conduct.conducted(request, **{"study": None, "url": None, "report_only": False, **options}))


def facts(seen: list[Observation | Progress], kind: str) -> list[dict]:
    return [one.values for one in seen if isinstance(one, Observation) and one.kind == kind]


def told(seen: list[Observation | Progress], workspace: Path) -> list[tuple[str, str]]:
    """Return the whole study as text, without the folder that it is in."""
    lines = [one for one in seen if isinstance(one, Observation) and one.kind != "source"]
    start = max(number for number, one in enumerate(lines) if one.kind == "study")
    return [(one.kind, dumps(one.values).replace(str(workspace), "")) for one in lines[start:]]


@pytest.mark.parametrize(
    ("kind", "ends_by"), [*((kind, Killed) for kind in SAMPLERS), ("tpe", TimeLimitReached), ("grid", TimeLimitReached)]
)
def test_what_was_killed_or_interrupted_and_gone_on_with_ends_as_if_it_had_not_been(tmp_path, spec, kind, ends_by):
    text = spec(kind)
    whole = Request(tmp_path / "whole", text)
    expected = told(done(whole), tmp_path / "whole")
    there = tmp_path / "resumed"
    first = Request(there, text, at=7, ends_by=ends_by)
    with pytest.raises(ends_by):
        done(first)
    second = Request(there, text)
    assert told(done(second), there) == expected
    assert sorted(first.trained + second.trained) == sorted(whole.trained), "none was trained twice"
    assert len(first.trained) == 7
    assert told(done(Request(there, text, at=0), report_only=True), there) == expected
    statuses = [line.count('"status": "pruned"') for name, line in expected if name == "trial"]
    assert (sum(statuses) > 0) == (kind == "median")


def test_what_is_interrupted_tells_the_study_as_it_is_then(tmp_path, spec):
    request = Request(tmp_path, spec(), at=4, ends_by=TimeLimitReached)
    request.raw.mkdir(parents=True)
    seen: list[Observation | Progress] = []
    with pytest.raises(TimeLimitReached):
        seen.extend(conduct.conducted(request, study=None, url=None, report_only=False))
    assert [name for name, _ in told(seen, tmp_path)] == ["study", "arm", *["trial"] * 3, "arm", "trial", *["arm"] * 5]
    assert [arm["state"] for arm in facts(seen, "arm")] == ["complete", *["waiting"] * 6]


def test_the_time_that_is_up_gives_the_arm_back_and_tells(tmp_path, spec):
    late = PartResult((Observation("timed_out", {}),), ended=False, stopped=True)
    seen = done(Request(tmp_path, spec(), at=1, ends_by=late))
    assert [arm["state"] for arm in facts(seen, "arm")] == ["waiting"] * 7
    again = Request(tmp_path, spec())
    done(again)
    assert (0, 0) not in again.trained
    assert (0, 1) in again.trained


def test_a_trial_that_dies_is_a_failed_one_with_its_recipe_kept_and_no_end_of_the_sweep(tmp_path, spec):
    request = Request(tmp_path, spec())
    request.fails[2, 1] = PartResult((Observation("part_died", {"signal": "SIGSEGV"}),), ended=False)
    seen = done(request)
    (arm,) = [arm for arm in facts(seen, "arm") if arm["state"] != "complete"]
    assert (arm["arm"], arm["state"], arm["why"]) == (2, "failed", "seed 1: its process died: SIGSEGV")
    failed = [trial for trial in facts(seen, "trial") if trial["status"] == "failed"]
    assert len(failed) == 2, "as this worker saw it, and as the study has it"
    assert failed[0] == failed[1]
    assert failed[0]["val_loss"] is None
    file = tmp_path / "sweeps" / "mine" / "recipes" / "arm-02-seed-1.toml"
    assert failed[0]["replay"] == f"bfo-diag run {file} --device=cpu"
    kept = {source["path"]: source["target"] for source in facts(seen, "source")}
    assert kept == {"mine.toml": True, "arm-02-seed-1.toml": False}
    assert (request.raw / "src" / "arm-02-seed-1.toml").read_bytes() == file.read_bytes()
    assert reading.read(str(file)).seed == 1
    assert len(request.trained) == 21, "the other seeds, and the arms after it, were trained"


def test_a_metric_that_is_no_number_fails_the_arm(tmp_path, spec):
    request = Request(tmp_path, spec())
    values = {**nothing(1, 2, status="complete", why="", replay=""), "val_loss": math.nan}
    request.fails[1, 2] = PartResult((Observation("trial", values),))
    states = {arm["arm"]: arm for arm in facts(done(request), "arm")}
    assert states[1]["state"] == "failed"
    assert states[1]["why"] == "val_loss is not finite"


def test_the_control_is_never_pruned_and_an_arm_that_is_gets_no_further_seed(tmp_path, spec):
    request = Request(tmp_path, spec("median"))
    seen = done(request)
    assert {arm for (arm, _), given in request.given.items() if given["pruning"]["startup"] is None} == {0}
    kept = storage.opened(None, tmp_path / "sweeps" / "mine")
    reported = {trial.user_attrs["arm"]: [*trial.intermediate_values] for trial in kept.get_all_trials(0)}
    assert reported[0] == reported[1] == [1, 2, 3, 4, 5, 6], "two epochs of three seeds; the control's count as well"
    states = {arm["arm"]: arm["state"] for arm in facts(seen, "arm")}
    assert states[0] == states[1] == "complete"
    assert "pruned" in states.values()
    for arm, state in states.items():
        statuses = {trial["seed"]: trial["status"] for trial in facts(seen, "trial") if trial["arm"] == arm}
        assert [*statuses.values()][-1] == state
        assert list(statuses.values())[:-1] == ["complete"] * (len(statuses) - 1)
        assert len(statuses) == 3 or state == "pruned"


def test_progress_counts_the_trials_of_all_workers_and_shows_the_best_arms(tmp_path, spec):
    with pytest.raises(Killed):
        done(Request(tmp_path, spec(), at=4))
    progress = [one for one in done(Request(tmp_path, spec())) if isinstance(one, Progress)][1:]
    assert [(one.done, one.total) for one in progress[:2]] == [(4, 21), (5, 21)]
    assert progress[0].left_s is None
    assert progress[1].left_s is not None
    assert progress[0].doing == "lr=0.1, clip_norm=1.0, seed 1"
    table = progress[-1].table
    assert table is not None
    assert table.columns == ("mean val_loss", "arm")
    means = [float(str(row[0])) for row in table.rows]
    assert means == sorted(means)
    assert sum("(control)" in str(row[1]) for row in table.rows) == 1


def test_an_arm_that_another_took_over_is_left_to_it(tmp_path, spec, monkeypatch):
    request = Request(tmp_path, spec())
    keep = Study.keep
    given = []

    def taken(self, arm, seed, values):
        if (arm.arm, seed) == (1, 0) and not given:
            given.append(self.give_back(arm, "its worker was lost"))
        keep(self, arm, seed, values)

    monkeypatch.setattr(Study, "keep", taken)
    seen = done(request)
    assert given == [True]
    assert request.trained.count((1, 0)) == 2, "what the other one did not hear of is done again"
    assert [arm["state"] for arm in facts(seen, "arm")] == ["complete"] * 7


def test_a_worker_waits_for_another_and_does_what_that_one_leaves_behind(tmp_path, spec, monkeypatch):
    text = spec()
    done(Request(tmp_path / "other", text))
    with pytest.raises(Killed):
        done(Request(tmp_path, text, at=0))
    lost, looks = leases.lost, []

    def at_the_third_look(worker, heard_s):
        looks.append(worker)
        return len(looks) > 10 and lost(worker, heard_s)

    monkeypatch.setattr(study, "lost", at_the_third_look)
    monkeypatch.setattr("bfo_diag.probes.sweep.work._POLL_S", 0.0)
    seen = done(Request(tmp_path, text))
    assert any(isinstance(one, Progress) and one.doing == "waiting for 1 arms of other workers" for one in seen)
    assert [arm["state"] for arm in facts(seen, "arm")] == ["complete"] * 7


def test_the_factory_of_a_model_is_kept_with_the_study_and_another_source_does_not_join(tmp_path, spec):
    file, nets = Path(spec()), tmp_path / "nets.py"
    file.write_text(file.read_text().replace('{ name = "mlp" }', '{ factory = "nets.py:Net" }'))
    nets.write_text("class Net: ...\n")
    done(Request(tmp_path, str(file)))
    recipes = tmp_path / "sweeps" / "mine" / "recipes"
    assert (recipes / "nets.py").read_text() == "class Net: ...\n"
    assert (recipes / "mine.toml").read_text() == file.read_text()
    (recipes / "nets.py").write_text("edited")
    done(Request(tmp_path, str(file), at=0), report_only=True)
    assert (recipes / "nets.py").read_text() == "class Net: ...\n", "the study says what it is"
    nets.write_text("class Net: pass\n")
    with pytest.raises(DiagError, match=r"of another spec: the source of nets.py is another"):
        done(Request(tmp_path, str(file)))


def test_births_and_deaths_are_kept_one_by_one_for_the_first_seed_alone(tmp_path, spec):
    request = Request(tmp_path, spec())
    done(request)
    assert {seed for (_, seed), options in request.given.items() if options["events"]} == {0}


def test_a_report_of_no_study_says_which_there_are(tmp_path, spec):
    text = spec()
    done(Request(tmp_path, text), study="other")
    with pytest.raises(DiagError, match="there is no study mine") as refused:
        done(Request(tmp_path, text), report_only=True)
    assert refused.value.mend == "there are other"
    assert not storage.exists(tmp_path / "sweeps" / "mine")


def test_a_name_that_no_folder_can_have_is_refused(tmp_path, spec):
    with pytest.raises(DiagError, match=r"'\.\./mine' can't name a study"):
        done(Request(tmp_path, spec()), study="../mine")
