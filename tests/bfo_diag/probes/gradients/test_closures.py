"""What a closure does at each evaluation of one optimizer step: faults are named, what is right gets no finding."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.distributed as dist
from torch.optim.optimizer import Optimizer

from bfo_diag.probes import load_all
from bfo_diag.probes.gradients import closure_judge, conditions
from bfo_diag.probes.gradients.trace import Trace
from bfo_diag.probes.gradients.watched import watched
from bfo_diag.records import CaseRecord, Observation, Outcome, Place, Run, RunHeader, Severity
from pytorch_bfo_optimizer import BFO, HybridBFO
from pytorch_bfo_optimizer.gradient_modes import DualClosure


@pytest.fixture
def examine(capture, targets_folder):
    def run(name, steps=2):
        run, findings = capture("gradients", f"{targets_folder / 'closures.py'}:{name}", steps=steps)
        return run, findings

    return run


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.planted
@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("backward_each_time", "CLOSURE-BACKWARD-EACH-TIME", "8 evaluations in one step of BFO, each ran backward()"),
        ("backward_in_a_partial", "CLOSURE-BACKWARD-EACH-TIME", "8 evaluations in one step of BFO"),
        ("backward_for_a_search", "CLOSURE-BACKWARD-EACH-TIME", "3 evaluations in one step of RandomSearch, each ran"),
        ("dropout_each_time", "CLOSURE-RANDOM", "each with random numbers of its own: dropout in 1."),
        ("dropout_in_a_line_search", "CLOSURE-RANDOM", "in one step of LBFGS, each with random numbers of its own"),
        ("a_batch_each_time", "CLOSURE-RANDOM", "8 evaluations in one step of BFO, each with random numbers"),
        ("statistics_each_time", "CLOSURE-MOVES-BUFFERS", "2 evaluations in one step of HybridBFO: 1 of them met"),
        ("steady_without_its_module", "CLOSURE-MOVES-BUFFERS", "7 of them met other values than the first in 1.runn"),
        ("accumulated_and_cleared", "ACCUMULATION-LOST", "2 backward passes before LBFGS.step(closure): the closure"),
        ("accumulated_for_adam", "ACCUMULATION-LOST", "1 backward pass before Adam.step(closure): the closure cleared"),
        ("accumulated_and_put_away", "ACCUMULATION-LOST", "2 backward passes before HybridBFO.step(closure): the opti"),
        ("accumulated_for_nobody", "ACCUMULATION-LOST", "the optimizer never read the gradients."),
    ],
)
def test_a_closure_that_misleads_its_optimizer_is_named(examine, targets_folder, name, code, said):
    run, findings = examine(name)
    assert [(f.code, f.severity) for f in findings] == [(code, Severity.WARNING)]
    assert said in findings[0].message
    assert findings[0].place.file == str(targets_folder / "closures.py")
    assert "optimizer.step(" in findings[0].place.source
    assert {run.observations[number - 1].kind for number in findings[0].evidence} == {"closure"}


@pytest.mark.healthy
@pytest.mark.parametrize(
    "name",
    [
        "line_search",
        "steady",
        "seeded",
        "put_back_by_the_optimizer",
        "all_at_once",
        "called_once",
        "evaluates_only",
        "all_batches",
        "called_for_its_loss",
        "adds_to_what_was_there",
        "adversaries",
        "sharpness_aware",
        "looks_at_its_gradient_first",
        "returns_a_loss_with_its_graph",
        "several_at_once",
        "with_a_closure_of_its_own",
    ],
)
def test_a_closure_that_is_right_gets_no_finding(examine, name):
    run, findings = examine(name, steps=3)
    assert findings == ()
    assert any(run.of_kind("closure")) is (name != "with_a_closure_of_its_own")


@pytest.mark.planted
@pytest.mark.parametrize(
    ("name", "optimizer"), [("each_rank_alone", "HybridBFO"), ("each_rank_searches_alone", "LBFGS")]
)
def test_losses_of_one_rank_alone_are_named(examine, process_group, name, optimizer):
    _, findings = examine(name)
    assert [(f.code, f.severity) for f in findings] == [("DDP-LOCAL-LOSS", Severity.WARNING)]
    assert f"evaluations in one step of {optimizer} call a DistributedDataParallel module" in findings[0].message


@pytest.mark.healthy
@pytest.mark.parametrize("name", ["averaged_in_the_closure", "distributed", "averaged_gradients"])
def test_ranks_that_share_their_losses_get_no_finding(examine, process_group, name):
    run, findings = examine(name)
    assert findings == ()
    assert next(observation.values["data_parallel_ranks"] for _, observation in run.of_kind("closure")) == 1


def test_an_optimizer_that_asks_for_losses_alone_lacks_no_gradient(examine):
    run, findings = examine("evaluates_only")
    said = load_all()["gradients"].verdict(run, findings)
    assert said == "The optimizer asks for losses alone: none of 2 parameters needs a gradient."
    (closure,) = [observation.values for _, observation in run.of_kind("closure")]
    assert (closure["gradient_reads"], closure["with_backward"]) == (0, 0)


@pytest.mark.planted
def test_a_closure_that_passes_a_scaler_by_is_named(examine):
    _, findings = examine("through_a_scaler")
    assert [(f.code, f.severity) for f in findings] == [("AMP-SCALER-CLOSURE", Severity.ERROR)]
    assert findings[0].message.startswith("2 evaluations in one step of HybridBFO that a GradScaler makes")


def test_an_optimizer_that_reads_gradients_lacks_them(examine):
    _, findings = examine("adam_without_backward")
    assert [f.code for f in findings if f.severity is Severity.ERROR] == ["GRAD-CUT-ITEM"]


def test_each_line_is_told_once_by_the_step_in_which_it_weighed_most():
    def closure(evaluations, line):
        values = {"optimizer": "BFO", "evaluations": evaluations, "with_backward": evaluations, "gradient_reads": 0}
        values |= {
            "drew_others": 0,
            "met_others": 0,
            "exchanges": None,
            "by_scaler": False,
            "earlier_backwards": 0,
            "earlier_gradients": None,
        }
        return Observation("closure", values, Place(file="train.py", line=line, step=1))

    header = RunHeader("run", "gradients", (), "2026-01-01T00:00:00Z", CaseRecord("0", "case"))
    run = Run(header, (closure(2, 5), closure(8, 5), closure(3, 9)), Outcome.COMPLETE)
    found = [(f.message.partition(",")[0], f.place.line, f.evidence) for f in closure_judge.judge(run)]
    assert found == [("8 evaluations in one step of BFO", 5, (1, 2)), ("3 evaluations in one step of BFO", 9, (3,))]


def test_a_step_that_repeats_the_last_one_is_on_record_once(examine):
    run, _ = examine("backward_each_time", steps=4)
    assert len(list(run.of_kind("closure"))) == 1


class TestWhatIsCounted:
    """The watch against what optimizers and closures count themselves."""

    @staticmethod
    def seen(optimizer_class, steps=4):
        torch.manual_seed(0)
        net = torch.nn.Linear(4, 3)
        x, calls, engine = torch.randn(16, 4), [], []
        optimizer = optimizer_class(net.parameters())

        def closure():
            calls.append(1)
            optimizer.zero_grad()
            loss = net(x).pow(2).mean()
            loss.register_hook(lambda gradient: engine.append(1))
            loss.backward()
            return loss

        told = []
        with Trace() as trace:
            for _ in range(steps):
                calls.clear()
                engine.clear()
                trace.begin_step()
                trace.closures._kinds.clear()  # each step anew
                optimizer.step(closure)
                (step,) = trace.closures.take()
                told.append((step.evaluations, step.with_backward))
                assert told[-1] == (len(calls), len(engine))
        return told

    def test_evaluations_and_backward_passes_are_those_that_ran(self):
        assert set(self.seen(lambda p: BFO(p, population_size=4))) != {(1, 1)}
        assert self.seen(lambda p: torch.optim.LBFGS(p, max_iter=3))[0] == (3, 3)
        assert self.seen(torch.optim.Adam) == [(1, 1)] * 4

    def test_a_backward_pass_that_an_optimizer_intercepts_has_not_run(self):
        from pytorch_bfo_optimizer import GradientConfig

        def never(parameters):
            return HybridBFO(parameters, population_size=4, gradient_config=GradientConfig(mode="never"))

        assert all(evaluations > 1 and ran == 0 for evaluations, ran in self.seen(never))


def train(optimizer_class, *, dual=False):
    torch.manual_seed(3)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1)
    )
    optimizer, x = optimizer_class(net.parameters()), torch.randn(16, 4)

    def loss():
        return net(x).pow(2).mean()

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    for _ in range(4):
        optimizer.step(DualClosure(loss, closure) if dual else closure)
    return [*(value.detach().clone() for value in net.state_dict().values()), torch.get_rng_state()]


@pytest.mark.parametrize("dual", [False, True])
def test_the_watch_changes_nothing_of_what_it_follows(dual):
    expected = train(HybridBFO, dual=dual)
    with Trace() as trace:
        trace.begin_step()
        seen = train(HybridBFO, dual=dual)
    assert all(torch.equal(a, b) for a, b in zip(expected, seen, strict=True))
    assert trace.closures.take()


def test_a_closure_that_is_an_object_is_still_that_object():
    entered = []

    @contextlib.contextmanager
    def watch():
        entered.append(1)
        yield

    dual = DualClosure(lambda: 1.0, lambda: 2.0)
    seen = watched(dual, watch)
    assert isinstance(seen, DualClosure)
    assert (seen(), entered) == (1.0, [1])
    assert (seen.grad_closure(), entered) == (2.0, [1])
    seen.closure = lambda: 4.0
    assert dual() == 4.0
    assert not hasattr(seen, "evaluate_population")


def test_a_step_that_raised_and_was_caught_leaves_the_next_one_right():
    net = torch.nn.Linear(4, 3)
    optimizer, x, fails = torch.optim.LBFGS(net.parameters(), max_iter=2), torch.ones(2, 4), [True]

    def closure():
        if fails:
            raise ValueError(fails.pop())
        optimizer.zero_grad()
        loss = net(x).pow(2).sum()
        loss.backward()
        return loss

    with Trace() as trace:
        trace.begin_step()
        with pytest.raises(ValueError, match="True"):
            optimizer.step(closure)
        optimizer.step(closure)
        (step,) = trace.closures.take()
    assert step.evaluations == 2


def test_an_optimizer_inside_another_is_told_apart():
    class Outer(Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {})
            self.inner = torch.optim.SGD(self.param_groups, lr=0.1)

        def step(self, closure):
            loss = closure()
            self.inner.step()
            return loss

    net = torch.nn.Linear(4, 3)
    optimizer = Outer(net.parameters())

    def closure():
        loss = net(torch.ones(2, 4)).sum()
        loss.backward()
        return loss

    with Trace() as trace:
        trace.begin_step()
        optimizer.step(closure)
        (step,) = trace.closures.take()
    assert (step.optimizer, step.evaluations, step.with_backward) == (optimizer, 1, 1)
    assert step.gradient_reads > 0  # the inner one's
    assert trace.closures.bare_steps == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, float("nan")], [1.0, float("nan")], True),
        ([1.0, float("nan")], [2.0, float("nan")], False),
        ([1.0, float("inf")], [1.0, -float("inf")], False),
        ([1.0, 2.0], [1.0], False),
    ],
)
def test_values_of_buffers_are_compared(one, other, same):
    assert conditions._same_values(torch.tensor(one), torch.tensor(other)) is same


def test_what_lightning_does_of_its_own_is_told_at_the_line_that_fits_the_module(capture, targets_folder):
    pytest.importorskip("lightning")
    _, findings = capture("gradients", f"{targets_folder / 'naive_lightning.py'}:fits", steps=1)
    assert [f.code for f in findings] == ["CLOSURE-BACKWARD-EACH-TIME", "ACCUMULATION-LOST"]
    assert {f.place.source for f in findings} == {"trainer.fit(Classifier(), batches)"}
