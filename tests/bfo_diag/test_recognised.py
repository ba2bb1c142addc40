"""Each row of the table is met by an exception that is really raised, by the torch and the frameworks at hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.optim import lr_scheduler

from bfo_diag import report
from bfo_diag.attempt import attempt
from bfo_diag.errors import ExitCode, TargetLoadError
from bfo_diag.findings import catalogue
from bfo_diag.probes import load_all
from bfo_diag.recognised import SIGNS, recognise, recognise_refusal
from bfo_diag.records import CaseRecord, Observation, Outcome, Run, RunHeader
from bfo_diag.targets import load
from pytorch_bfo_optimizer import BFO


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape or (3,)))


def sgd(*parameters: nn.Parameter) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters or [weight()], lr=0.1)


def twice(call: Callable[[], object]) -> None:
    call()
    call()


# --- an optimizer without its closure ---


def bare_steps():
    twice(BFO([weight()]).step)


def bare_lbfgs():
    torch.optim.LBFGS([weight()]).step()


# --- AMP ---


def scaled_step(optimizer, loss=None, **options):
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(weight().sum() if loss is None else loss).backward()
    scaler.step(optimizer, **options)
    return scaler


def scaler_with_closure():
    w = weight()
    scaled_step(sgd(w), w.sum(), closure=lambda: w.sum())


def scaler_and_a_colony():
    w = weight()
    optimizer = BFO([w])
    twice(lambda: scaled_step(optimizer, w.sum()))


def scaler_and_lbfgs():
    w = weight()
    scaled_step(torch.optim.LBFGS([w]), w.sum())


def scaler_without_gradient():
    scaled_step(sgd())


def scaler_that_scaled_nothing():
    torch.amp.GradScaler("cpu").step(sgd())


def update_alone():
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(weight().sum()).backward()
    scaler.update()


def scaler_without_update():
    w = weight()
    optimizer = sgd(w)
    scaled_step(optimizer, w.sum()).step(optimizer)


def unscaled_twice():
    w = weight()
    optimizer, scaler = sgd(w), torch.amp.GradScaler("cpu")
    scaler.scale(w.sum()).backward()
    twice(lambda: scaler.unscale_(optimizer))


def half_weights():
    w = nn.Parameter(torch.ones(3, dtype=torch.float16))
    scaled_step(sgd(w), w.sum())


# --- schedulers ---


def one_cycle():
    lr_scheduler.OneCycleLR(BFO([weight()]), max_lr=1.0, total_steps=5)


def cyclic():
    lr_scheduler.CyclicLR(torch.optim.Adagrad([weight()]), base_lr=0.1, max_lr=1.0)


def one_cycle_too_long():
    optimizer = sgd()
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=2)
    for _ in range(3):
        optimizer.step()
        scheduler.step()


def goes_on_with_a_fresh_optimizer():
    lr_scheduler.StepLR(sgd(), 10, last_epoch=3)


# --- DDP ---


def leaves_a_layer_out():
    net = nn.ModuleDict({"used": nn.Linear(2, 2), "idle": nn.Linear(2, 2)})
    net.forward = lambda x: net["used"](x)  # type: ignore[method-assign]
    parallel = nn.parallel.DistributedDataParallel(net)
    twice(lambda: parallel(torch.ones(1, 2)).sum().backward())


def sharded():
    net = nn.Linear(4, 2)
    fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
    BFO(net.parameters())


# --- backward ---


def no_graph():
    torch.ones(2).sum().backward()


def twice_through_one_graph():
    twice((weight() ** 2).sum().backward)


def hidden_state():
    cell, state = nn.GRUCell(2, 2), torch.zeros(1, 2)
    for _ in range(2):
        state = cell(torch.ones(1, 2), state)
        state.sum().backward()


def written_in_place():
    hidden = weight().exp()
    loss = (hidden * hidden).sum()
    hidden.add_(1)
    loss.backward()


def stepped_in_between():
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    optimizer, (first, second) = sgd(*net.parameters()), (net(torch.ones(1, 2)).sum() for _ in range(2))
    first.backward()
    optimizer.step()
    second.backward()


def parameter_written():
    weight().add_(1)


def part_of_a_parameter_written():
    weight()[0] = 1


def loss_of_several():
    (weight() * 2).backward()


# --- data ---


def label_too_high():
    functional.cross_entropy(torch.randn(2, 3), torch.tensor([0, 3]))


def index_too_high():
    nn.Embedding(3, 2)(torch.tensor([3]))


def labels_of_32_bits():
    functional.cross_entropy(torch.randn(2, 3), torch.tensor([0, 1], dtype=torch.int32))


def float64_rows():
    nn.Linear(3, 2)(torch.ones(1, 3, dtype=torch.float64))


def float64_images():
    nn.Conv2d(1, 1, 1)(torch.ones(1, 1, 3, 3, dtype=torch.float64))


def last_batch_of_one():
    nn.BatchNorm1d(3)(torch.ones(1, 3))


# --- making and loading ---


def no_leaf():
    sgd(weight() * 2)  # type: ignore[arg-type]


def nothing_to_optimize():
    torch.optim.SGD(nn.Module().parameters(), lr=0.1)


def nothing_for_a_colony():
    BFO([])


def state_of_fewer():
    sgd(weight(), weight()).load_state_dict(sgd().state_dict())


def state_of_other_groups():
    groups = torch.optim.SGD([{"params": [weight()]}, {"params": [weight()]}], lr=0.1)
    groups.load_state_dict(sgd().state_dict())


def compiled_when_saved():
    net = nn.Linear(2, 2)
    net.load_state_dict({f"_orig_mod.{name}": value for name, value in net.state_dict().items()})


def parallel_when_saved():
    net = nn.Linear(2, 2)
    net.load_state_dict({f"module.{name}": value for name, value in net.state_dict().items()})


RAISED_BY_TORCH = {
    "OPTIMIZER-NEEDS-CLOSURE": [bare_steps, bare_lbfgs],
    "AMP-SCALER-CLOSURE": [scaler_with_closure, scaler_and_a_colony, scaler_and_lbfgs],
    "AMP-NO-GRADIENT": [scaler_without_gradient, scaler_that_scaled_nothing, update_alone],
    "AMP-UPDATE-FORGOTTEN": [scaler_without_update, unscaled_twice],
    "AMP-HALF-WEIGHTS": [half_weights],
    "SCHEDULER-MOMENTUM": [one_cycle, cyclic],
    "SCHEDULER-TOO-MANY-STEPS": [one_cycle_too_long],
    "SCHEDULER-LAST-EPOCH": [goes_on_with_a_fresh_optimizer],
    "SHARDED-PARAMETERS": [sharded],
    "DDP-UNFINISHED-REDUCTION": [leaves_a_layer_out],
    "BACKWARD-NO-GRAPH": [no_graph],
    "BACKWARD-TWICE": [twice_through_one_graph, hidden_state],
    "BACKWARD-INPLACE": [written_in_place, stepped_in_between],
    "LEAF-INPLACE": [parameter_written, part_of_a_parameter_written],
    "LOSS-NOT-SCALAR": [loss_of_several],
    "LABEL-OUT-OF-RANGE": [label_too_high],
    "EMBEDDING-OUT-OF-RANGE": [index_too_high],
    "LABEL-DTYPE": [labels_of_32_bits],
    "DATA-FLOAT64": [float64_rows, float64_images],
    "BATCHNORM-ONE-VALUE": [last_batch_of_one],
    "OPTIMIZER-NOT-A-LEAF": [no_leaf],
    "OPTIMIZER-NO-PARAMETERS": [nothing_to_optimize, nothing_for_a_colony],
    "OPTIMIZER-STATE-MISMATCH": [state_of_fewer, state_of_other_groups],
    "STATE-DICT-PREFIX": [compiled_when_saved, parallel_when_saved],
}
RAISED_BY_LIGHTNING = {
    "trainer_argument": "LIGHTNING-TRAINER-ARGUMENT",
    "clips": "LIGHTNING-MANUAL-ONLY",
    "accumulates": "LIGHTNING-MANUAL-ONLY",
    "bare": "OPTIMIZER-NEEDS-CLOSURE",
    "two_packages": "LIGHTNING-TWO-PACKAGES",
    "data_of_the_other_package": "LIGHTNING-TWO-PACKAGES",
}


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def raised(process_group):
    """Return what is on record of each exception, by the function that raises it."""
    found = {}
    for raising in (each for several in RAISED_BY_TORCH.values() for each in several):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a scheduler warns before it raises
            done = attempt(raising)
        assert done.raised is not None, raising.__name__
        found[raising] = dict(done.raised.observation("step").values)
    return found


@pytest.mark.parametrize("code", RAISED_BY_TORCH)
def test_what_torch_raises_has_its_name(raised, code):
    assert {each.__name__: recognise(raised[each]) for each in RAISED_BY_TORCH[code]} == {
        each.__name__: code for each in RAISED_BY_TORCH[code]
    }


@pytest.mark.parametrize("name", RAISED_BY_LIGHTNING)
def test_what_lightning_raises_has_its_name(capture, targets_folder, name):
    pytest.importorskip("lightning")
    run, findings = capture("gradients", f"{targets_folder / 'naive_lightning.py'}:{name}", steps=1)
    assert [f.code for f in findings][:2] == [RAISED_BY_LIGHTNING[name], "TARGET-RAISED"]
    assert report.exit_code(run, load_all()["gradients"], findings, fail_on=("warning",)) is ExitCode.TARGET_RAISED


@pytest.mark.parametrize("adapted", [False, True])
def test_what_fastai_raises_has_its_name(adapted):
    pytest.importorskip("fastai", reason="pip install 'bfo-diag[fastai]', in an environment of its own")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fastai calls torch.jit.script when it is imported
        from fastai.basics import DataLoader, DataLoaders, OptimWrapper
        from fastai.callback.schedule import Learner  # with fit_one_cycle

        from pytorch_bfo_optimizer.adapters.fastai import BFOCallback, bfo_func

    pairs = [(torch.ones(2), torch.tensor(0))] * 4
    learner = Learner(
        DataLoaders(*(DataLoader(pairs, bs=2, num_workers=0, device="cpu") for _ in range(2)), device="cpu"),
        nn.Linear(2, 2),
        loss_func=functional.cross_entropy,
        opt_func=bfo_func(BFO) if adapted else partial(OptimWrapper, opt=BFO),
        cbs=[BFOCallback()] if adapted else [],
    )
    done = attempt(lambda: learner.fit_one_cycle(1))
    assert done.raised is not None
    assert done.raised.type == ("HyperparameterError" if adapted else "KeyError")
    assert recognise(done.raised.observation("step").values) == "SCHEDULER-MOMENTUM"


def test_each_row_is_of_use(raised):
    """Where a row above it is enough, a row is too much."""
    met = set()
    for values in raised.values():
        told = values["type"], values["message"], values["traceback"]
        met.add(next(sign for sign in SIGNS if sign.fits(*told)))
    # Those that a framework raises: see the two tests above.
    left = {(sign.code, sign.type) for sign in set(SIGNS) - met if not sign.code.startswith("LIGHTNING-")}
    assert left == {
        ("OPTIMIZER-NEEDS-CLOSURE", "LossTypeError"),
        ("SCHEDULER-MOMENTUM", "KeyError"),
        ("SCHEDULER-MOMENTUM", "HyperparameterError"),
    }


def test_every_code_of_the_table_is_in_the_catalogue():
    assert {sign.code for sign in SIGNS} <= set(catalogue())


@pytest.mark.parametrize(
    ("type_name", "message"),
    [
        ("ValueError", "no more data"),
        ("TypeError", "step() missing 1 required positional argument: 'batch'"),
        ("RuntimeError", "Error(s) in loading state_dict for Linear:\n\tsize mismatch for weight"),
        ("KeyError", "'momentum'"),
        ("LossTypeError", "the closure returned None: it must return the loss (`return loss`)"),
        ("Exception", "element 0 of tensors does not require grad and does not have a grad_fn"),
    ],
)
def test_what_nobody_knows_has_no_name(type_name, message):
    assert recognise({"type": type_name, "message": message, "traceback": "Traceback ..."}) is None


def test_a_closure_of_lightnings_user_that_returns_none_is_not_a_bare_step():
    message = "the closure returned None: it must return the loss (`return loss`)"
    through = '  File ".../lightning/pytorch/loops/optimization/manual.py", line 110, in advance\n    {}\n'
    told = {"type": "LossTypeError", "message": message}
    assert recognise({**told, "traceback": through.format("optimizer.step(closure=closure)")}) is None
    assert recognise({**told, "traceback": through.format("optimizer.step()")}) == "OPTIMIZER-NEEDS-CLOSURE"


def run_of(probe: str, *observations: Observation, outcome: Outcome = Outcome.CRASHED) -> Run:
    return Run(RunHeader("run", probe, (), "2026-01-01T00:00:00Z", CaseRecord("0", "case")), observations, outcome)


@pytest.mark.parametrize("probe", ["gradients", "compile", "bench", "telemetry"])
def test_the_name_stands_beside_what_was_raised_whatever_was_examined(raised, probe):
    run = run_of(probe, Observation("raised", raised[bare_steps]))
    findings = report.findings(run, load_all()[probe])
    named = next(f for f in findings if f.code == "OPTIMIZER-NEEDS-CLOSURE")
    entry = catalogue()[named.code]
    assert (named.message, named.fix, named.evidence) == (entry.why, entry.fix, (1,))
    assert findings[1].code == "TARGET-RAISED"  # what says more comes first
    assert report.exit_code(run, load_all()[probe], findings, fail_on=("warning",)) is ExitCode.TARGET_RAISED


def test_what_our_own_code_raised_is_no_fault_of_the_target(raised):
    run = run_of("gradients", Observation("raised", {**raised[bare_steps], "by_target": False}))
    assert [f.code for f in report.findings(run, load_all()["gradients"])] == ["DIAG-DEFECT"]


def test_an_exception_while_the_target_is_imported_has_its_name_too(tmp_path, fresh_imports):
    script = tmp_path / "train_at_import.py"
    script.write_text("import torch\n\ntorch.optim.LBFGS([torch.ones(2, requires_grad=True)]).step()\n")
    with pytest.raises(TargetLoadError) as refused:
        load(f"{script}:step")
    error = refused.value
    values = {"message": error.message, "mend": error.mend, "detail": error.detail, "exit": error.exit_code}
    assert recognise_refusal(values) == "OPTIMIZER-NEEDS-CLOSURE"
    assert recognise_refusal({"message": "there is no file train.py", "detail": ""}) is None
    found = report.findings(run_of("gradients", Observation("refused", values)), load_all()["gradients"])
    assert [f.code for f in found] == ["TARGET-REFUSED", "OPTIMIZER-NEEDS-CLOSURE"]
