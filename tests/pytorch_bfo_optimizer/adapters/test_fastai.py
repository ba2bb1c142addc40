"""`Learner`s that train on the digits, beside the same loop in plain torch: the same numbers, to the bit."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("fastai", reason="pip install 'bfo-diag[fastai]', in an environment of its own")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # fastai calls torch.jit.script when it is imported
    from fastai.basics import Callback, DataLoader, DataLoaders, Datasets, Learner, OptimWrapper, accuracy, load_learner
    from fastai.callback import fp16
    from fastai.callback.all import GradientAccumulation, GradientClip, MixUp, ParamScheduler, SchedCos

    from pytorch_bfo_optimizer.adapters.fastai import BFOCallback, bfo_func

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import (
    BFO,
    ClosureRequiredError,
    DistributedError,
    HybridBFO,
    HyperparameterError,
    ParameterError,
    StepRecord,
)
from pytorch_bfo_optimizer.steady import SteadyClosure

BATCH, TRAIN, VALID = 64, 160, 100  # the last of three batches is a half one
cross_entropy = nn.functional.cross_entropy


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def network() -> nn.Sequential:
    """Dropout and running statistics: what a candidate must not have of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 10))


def data() -> DataLoaders:
    x, y = digits()
    parts = range(TRAIN), range(TRAIN, TRAIN + VALID)
    sets = Datasets(range(TRAIN + VALID), tfms=[[x.__getitem__], [y.__getitem__]], splits=parts)
    loaders = [DataLoader(part, bs=BATCH, num_workers=0, device="cpu") for part in (sets.train, sets.valid)]
    return DataLoaders(*loaders, device="cpu")


def options(**changed: Any) -> dict[str, Any]:
    return {"population_size": 6, "generator": torch.Generator().manual_seed(2), **changed}


def learner(model: nn.Module, kind: type = HybridBFO, cbs: Sequence[Callback] = (), **settings: Any) -> Learner:
    settings = {"loss_func": cross_entropy, "opt_func": bfo_func(kind, **options()), **settings}
    learn = Learner(data(), model, cbs=[BFOCallback(), *cbs], **settings)
    learn.logger = lambda _: None
    return learn


def plain_run(
    model: nn.Module,
    epochs: int,
    kind: type = HybridBFO,
    *,
    loss_of: Callable[[Tensor, Tensor], Tensor] | None = None,
    batches_a_step: int = 1,
    before_batch: Callable[[Tensor], Tensor] = lambda x: x,
    after_backward: Callable[[], object] = lambda: None,
) -> torch.optim.Optimizer:
    """The same in plain torch, with the loaders of `data`, which draw from torch's random numbers, too."""
    optimizer, loaders = kind(model.parameters(), **options()), data()

    def mean_loss(x: Tensor, y: Tensor) -> Tensor:
        return loss_of(x, y) if loss_of is not None else cross_entropy(model(x), y)

    for _ in range(epochs):
        kept: list[tuple[Tensor, Tensor]] = []
        for x, y in loaders.train:
            kept.append((before_batch(x), y))
            if len(kept) < batches_a_step:
                continue

            def closure(kept: list[tuple[Tensor, Tensor]] = kept) -> Tensor:
                optimizer.zero_grad()
                parts = []
                for x, y in kept:
                    part = mean_loss(x, y) * (len(y) / sum(len(y) for _, y in kept))
                    part.backward()
                    parts.append(part.detach())
                after_backward()
                return torch.stack(parts).sum()

            optimizer.step(SteadyClosure(closure, model))
            kept = []
        list(loaders.valid)
    return optimizer


def assert_same_parameters(first: nn.Module, second: nn.Module) -> None:
    for (name, mine), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, other), name


@pytest.mark.parametrize("kind", [HybridBFO, BFO])
def test_a_learner_goes_the_way_of_a_loop_in_plain_torch(kind: type) -> None:
    model, plain = network(), network()
    learn = learner(model, kind)
    learn.fit(2)
    after = torch.get_rng_state()

    torch.manual_seed(0)
    optimizer = plain_run(plain, 2, kind)
    assert_same_parameters(model, plain)
    assert torch.equal(after, torch.get_rng_state())
    assert learn.opt.opt.evaluations == optimizer.evaluations > optimizer.generation == 6


def test_it_trains_under_recorder_and_progress(capsys: pytest.CaptureFixture[str]) -> None:
    model, epochs = network(), 8
    learn = learner(model, metrics=accuracy)
    learn.logger = print
    learn.fit(epochs)
    train_loss, valid_loss, correct = learn.final_record
    assert train_loss < 1.2
    assert valid_loss < 1.0
    assert correct > 0.75
    assert len(learn.recorder.losses) == 3 * epochs
    shown = capsys.readouterr().out
    assert "epoch     train_loss  valid_loss  accuracy" in shown, shown
    assert not model.training  # as fastai leaves it


def test_the_recorder_shows_the_loss_before_a_step_and_statistics_move_once_a_batch() -> None:
    model, fresh = network(), network()
    seen: list[tuple[float, bool, Tensor]] = []

    class Watch(Callback):
        run_valid = False

        def after_batch(self) -> None:
            # (nobody keeps the graph of fastai's own pass)
            seen.append((self.learn.loss.item(), self.learn.pred.requires_grad, model[1].running_mean.clone()))

    records: list[StepRecord] = []
    learn = learner(model, BFO, [Watch()])
    learn.create_opt()
    learn.opt.opt.on_step.append(records.append)
    learn.fit(1)
    assert model[1].num_batches_tracked == 3
    assert len(records) == 3
    assert all(record.evaluations > 6 for record in records)

    torch.manual_seed(0)
    x, y = next(iter(data().train))
    loss = cross_entropy(fresh(x), y)
    assert seen[0][:2] == (loss.item(), False)
    assert torch.equal(seen[0][2], fresh[1].running_mean)


# --- other callbacks ---


def test_schedules_reach_the_optimizer_by_fastais_names() -> None:
    learn = learner(network())
    assert learn.opt_func.keywords["lr"] == 1.0
    learn.fit_one_cycle(1)  # 'mom' is beta_1
    assert learn.recorder.hps["lr"][0] == pytest.approx(1 / 25)
    assert [round(beta, 3) for beta in learn.recorder.hps["mom"]] == [0.95, 0.853, 0.909]
    learn.fit_flat_cos(1, lr=0.5)
    assert learn.recorder.hps["lr"][0] == 0.5
    learn.fit(1, cbs=ParamScheduler({"gradient_weight": SchedCos(0.2, 0.6)}))
    assert learn.opt.opt.param_groups[0]["gradient_weight"] == pytest.approx(0.5)


def test_a_schedule_for_each_group_leaves_plain_numbers_in_what_is_saved(tmp_path: Path) -> None:
    learn = learner(network(), splitter=lambda m: [[*m[:2].parameters()], [*m[2:].parameters()]], path=tmp_path)
    learn.fit(1, lr=slice(0.25, 1.0))
    assert [group["lr"] for group in learn.opt.opt.param_groups] == [0.25, 1.0]
    learn.fit_sgdr(1, 1, lr_max=slice(0.25, 1.0))
    assert {type(group["lr"]) for group in learn.opt.opt.param_groups} == {float}
    torch.load(learn.save("split"), weights_only=True)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda learn: learn.fit_one_cycle(1), r"BFO has no momentum \('mom'\).*fit_flat_cos"),
        (lambda learn: learn.fit(1, wd=0.1), r"BFO has no weight decay \('wd'\)"),
        (lambda learn: learn.fit(1, cbs=ParamScheduler({"sqr_mom": SchedCos(0, 1)})), "no hyperparameter 'sqr_mom'"),
    ],
)
def test_a_hyperparameter_that_is_not_there_is_named(call: Callable[[Learner], None], told: str) -> None:
    with pytest.raises(HyperparameterError, match=told):
        call(learner(network(), BFO))


def test_accumulation_takes_the_mean_over_all_items() -> None:
    model, plain = network(), network()
    learn = learner(model, cbs=[GradientAccumulation(n_acc=TRAIN)])
    learn.fit(2)
    assert learn.opt.opt.generation == 2

    torch.manual_seed(0)
    plain_run(plain, 2, batches_a_step=3)
    assert_same_parameters(model, plain)


def test_clipping_is_of_the_gradient_that_a_step_takes() -> None:
    model, plain = network(), network()
    learner(model, cbs=[GradientClip(max_norm=0.2)]).fit(2)

    torch.manual_seed(0)
    plain_run(plain, 2, after_backward=lambda: nn.utils.clip_grad_norm_(plain.parameters(), 0.2))
    assert_same_parameters(model, plain)


def test_what_callbacks_make_of_predictions_and_loss_counts_for_each_candidate() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            found = self.inner(x)
            return found, found.square().mean()

    def noisy(x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)

    class Penalty(Callback):
        def before_batch(self) -> None:
            if self.learn.training:
                self.learn.xb = (noisy(self.learn.xb[0]),)

        def after_pred(self) -> None:
            self.learn.pred, self.activity = self.learn.pred

        def after_loss(self) -> None:
            self.learn.loss_grad += 0.1 * self.activity

    model, plain = Both(), Both()
    learner(model, cbs=[Penalty()]).fit(1)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        found, penalty = plain(x)
        return cross_entropy(found, y) + 0.1 * penalty

    torch.manual_seed(0)
    plain_run(plain, 1, loss_of=loss_of, before_batch=noisy)
    assert_same_parameters(model, plain)


def test_bf16_is_around_every_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp16, "autocast", lambda _, dtype: torch.autocast("cpu", dtype=dtype))  # fastai knows CUDA only
    model = network()
    dtypes: list[torch.dtype] = []
    model[0].register_forward_hook(lambda module, _, out: dtypes.append(out.dtype))
    learn = learner(model, BFO).to_bf16()
    learn.fit(1)
    assert len(dtypes) > learn.opt.opt.evaluations
    assert set(dtypes) == {torch.bfloat16}
    assert not torch.is_autocast_enabled("cpu")
    assert (torch.autocast_increment_nesting(), torch.autocast_decrement_nesting()) == (1, 0)  # each was left once


def test_gradient_free_optimizers_record_no_graph() -> None:
    model = network()
    graphs: list[bool] = []
    model.register_forward_hook(lambda module, _, out: graphs.append(out.requires_grad))
    learn = learner(model, BFO)
    learn.fit(1)
    assert sum(graphs) == 3  # fastai's own passes
    assert len(graphs) > learn.opt.opt.evaluations


# --- saving ---


@pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning")
def test_a_saved_learner_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole = learner(network())
    whole.fit(1)
    middle = torch.get_rng_state()
    file = whole.save(tmp_path / "half")
    whole.fit(2)

    again = learner(network())
    again.load(file.with_suffix(""))
    torch.set_rng_state(middle)
    again.fit(2)
    assert_same_parameters(whole.model, again.model)
    assert whole.opt.opt.evaluations == again.opt.opt.evaluations


def test_an_exported_learner_predicts(tmp_path: Path) -> None:
    learn = learner(network(), path=tmp_path)
    learn.fit(1)
    evaluations = learn.opt.opt.evaluations
    expected = learn.get_preds()[0]
    learn.export("whole.pkl")
    assert learn.opt.opt.evaluations == evaluations
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of fastai's: a pickle can hold anything
        loaded = load_learner(tmp_path / "whole.pkl")
    loaded.dls = data()
    assert torch.equal(loaded.get_preds()[0], expected)


# --- errors ---


def test_an_error_of_the_model_comes_through_and_leaves_all_as_it_was() -> None:
    class BrokenModelError(RuntimeError):
        """Without arguments: fastai's callbacks would make an IndexError of it."""

    model = network()
    learn = learner(model, BFO)
    learn.fit(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls: list[None] = []

    def fail(*_: object) -> None:
        calls.append(None)
        if len(calls) == 5:
            raise BrokenModelError

    hook = model[4].register_forward_hook(fail)
    with pytest.raises(BrokenModelError) as raised:
        learn.fit(1)
    assert raised.value.args == ()
    hook.remove()
    for name, param in model.named_parameters():
        assert torch.equal(param, before[name]), name
    assert model[1].num_batches_tracked == before["1.num_batches_tracked"] + 1  # fastai's own pass
    assert torch.is_grad_enabled()
    learn.fit(1)


def test_a_learner_without_the_callback_is_told_of_it() -> None:
    learn = Learner(data(), network(), loss_func=cross_entropy, opt_func=bfo_func(BFO, population_size=4))
    with pytest.raises(ClosureRequiredError, match=r"BFO needs: Learner\(\.\.\., opt_func=.*cbs=\[BFOCallback\(\)\]"):
        learn.fit(1)


def test_an_optimizer_that_is_none_of_ours_is_refused() -> None:
    with pytest.raises(TypeError, match="this is SGD"):
        learner(network(), opt_func=partial(OptimWrapper, opt=torch.optim.SGD)).fit(1)
    for wrong in (torch.optim.SGD, BFO(network().parameters())):
        with pytest.raises(TypeError, match="bfo_func takes a class"):
            bfo_func(wrong)


def test_frozen_parameters_are_refused_unless_the_optimizer_has_none() -> None:
    halves = partial(learner, splitter=lambda model: [[*model[:2].parameters()], [*model[2:].parameters()]])
    learn = halves(network())
    learn.freeze()
    with pytest.raises(ParameterError, match=r"2 of 6 parameters are frozen, and HybridBFO moves all"):
        learn.fit(1)

    model = network()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    learner(model).fit(1)
    assert torch.equal(model[0].weight, before)


@pytest.mark.filterwarnings("ignore:CUDA is not available", "ignore:.*GradScaler is enabled")
@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda learn: learn.to_fp16(), r"use to_bf16\(\)"),
        (lambda learn: learn.add_cbs([MixUp(), GradientAccumulation(128)]), "MixUp knows the labels of the last batch"),
    ],
)
def test_callbacks_that_cannot_work_are_refused(prepare: Callable[[Learner], None], told: str) -> None:
    learn = learner(network())
    prepare(learn)
    with pytest.raises(HyperparameterError, match=told):
        learn.fit(1)


def test_ranks_that_would_drift_apart_are_refused(two_ranks: None) -> None:
    with pytest.raises(DistributedError, match=r"one of 2 ranks.*distribute\(learn\.opt\.opt, data=\"own\"\)"):
        learner(network()).fit(1)


@pytest.fixture
def two_ranks() -> Iterator[None]:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    torch.distributed.destroy_process_group()


def test_without_fastai_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastai.learner", None)
    monkeypatch.delitem(sys.modules, "pytorch_bfo_optimizer.adapters.fastai")
    with pytest.raises(ImportError, match=r"needs fastai \(.*\): pip install 'bfo-diag\[fastai\]'"):
        importlib.import_module("pytorch_bfo_optimizer.adapters.fastai")
