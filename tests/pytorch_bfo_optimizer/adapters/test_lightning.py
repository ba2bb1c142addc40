"""Real fits of Lightning's Trainer on the digits; the processes of a job run `lightning_ranks`."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

L = pytest.importorskip("lightning.pytorch", reason="pip install 'bfo-diag[lightning]'")
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint  # noqa: E402
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger  # noqa: E402
from torchmetrics import MeanMetric  # noqa: E402

from bfo_diag.cases.digits_mlp import digits  # noqa: E402
from pytorch_bfo_optimizer import AdaptiveBFO, HybridBFO, HyperparameterError, LossTypeError  # noqa: E402
from pytorch_bfo_optimizer.adapters import lightning as adapter  # noqa: E402
from pytorch_bfo_optimizer.adapters.lightning import BFOCallback, BFOTraining  # noqa: E402
from pytorch_bfo_optimizer.errors import ObjectiveError  # noqa: E402
from pytorch_bfo_optimizer.steady import steady_step  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]

Make = Callable[[Any], torch.optim.Optimizer]
HOOKS = "on_before_zero_grad on_before_backward on_after_backward on_before_optimizer_step"
METHODS = "optimizer_step optimizer_zero_grad configure_gradient_clipping lr_scheduler_step"


def hybrid(params: Any) -> HybridBFO:
    return HybridBFO(params, generator=torch.Generator().manual_seed(3))


def adaptive(params: Any) -> AdaptiveBFO:
    return AdaptiveBFO(params, population_size=6, generator=torch.Generator().manual_seed(3))


def loss_of(net: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss of a classifier, with a part that is in full precision whatever autocast says, backward pass and all."""
    images, labels = batch
    loss = nn.functional.cross_entropy(net(images), labels)
    with torch.autocast("cpu", enabled=False):
        return loss + 1e-3 * (net[0].weight @ net[0].weight.T).square().mean()


class Automatic(L.LightningModule):
    """A module as it is written for automatic optimization; dropout and BatchNorm make it hard to repeat."""

    def __init__(
        self, make: Make = hybrid, scheduler: Callable[..., Any] | None = None, interval: str = "step"
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 10))
        self.make, self.scheduler, self.interval = make, scheduler, interval
        self.called: list[str] = []
        for name in f"{HOOKS} {METHODS}".split():
            setattr(self, name, self._noted(name, getattr(self, name)))

    def _noted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.called.append(name)
            return method(*args, **kwargs)

        return call

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        loss = loss_of(self.net, batch)
        self.log("loss", loss, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = self.make(self.parameters())
        if self.scheduler is None:
            return optimizer
        config = {"scheduler": self.scheduler(optimizer), "interval": self.interval, "frequency": 2}
        return {"optimizer": optimizer, "lr_scheduler": config}


class Net(BFOTraining, Automatic):
    """The same, trained by the mixin."""


def batches(count: int = 6, size: int = 32, length: int | None = None) -> DataLoader:
    images, labels = digits()
    length = count * size if length is None else length
    return DataLoader(TensorDataset(images[:length], labels[:length]), batch_size=size)


def fit(module: Any, loader: DataLoader, *, ckpt_path: str | None = None, **options: Any) -> Any:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options = {"max_epochs": 2, **quiet, "enable_model_summary": False, "log_every_n_steps": 1, **options}
    trainer = L.Trainer(accelerator="cpu", **options)
    torch.manual_seed(1)
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    return trainer


def plain(make: Make, loader: DataLoader, *, epochs: int = 2, bf16: bool = False, clip: float = 0) -> tuple[Any, list]:
    """The loop that the mixin stands for, written by hand; the model, and the loss of each step."""
    model, losses = Automatic(make).net, []
    optimizer = make(model.parameters())
    torch.manual_seed(1)
    for batch in chain.from_iterable(loader for _ in range(epochs)):  # an iterator draws a random number

        def closure(batch: Any = batch) -> Tensor:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False):
                loss = loss_of(model, batch)
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            return loss

        losses.append(float(torch.as_tensor(steady_step(optimizer, closure, model)).detach()))
    return model, losses


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def rows(logger: CSVLogger) -> list[dict[str, str]]:
    with Path(logger.log_dir, "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# --- trajectories ---


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (hybrid, {}),
        (hybrid, {"clip": 0.3}),
        (hybrid, {"bf16": True}),
        (adaptive, {}),
        (lambda params: HybridBFO(params, gradient_config=None, generator=torch.Generator().manual_seed(3)), {}),
        (lambda params: torch.optim.LBFGS(params, max_iter=3), {}),
    ],
)
def test_a_fit_is_the_plain_loop_to_the_bit(make: Make, options: dict[str, Any]) -> None:
    net = Net(make)
    net.gradient_clip_val = options.get("clip")
    trainer = fit(net, batches(), precision="bf16-mixed" if "bf16" in options else "32-true")
    model, _ = plain(make, batches(), **options)
    assert same(net.net, model)
    assert trainer.global_step == 12


def test_a_network_reaches_the_loss_of_the_plain_loop() -> None:
    net = Net()
    trainer = fit(net, batches(10, 64), max_epochs=6)
    model, losses = plain(hybrid, batches(10, 64), epochs=6)
    assert same(net.net, model)
    assert float(trainer.callback_metrics["loss_epoch"]) == pytest.approx(sum(losses[-10:]) / 10)
    assert sum(losses[-10:]) / 10 < 0.5 < 2 < losses[0]


@pytest.mark.parametrize(("accumulated", "interval"), [(1, "step"), (2, "epoch")])
def test_hooks_schedulers_clipping_and_logs_are_those_of_automatic_optimization(
    tmp_path: Path, accumulated: int, interval: str
) -> None:
    def scheduler(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    found, loggers = [], []
    for kind in (Automatic, Net):
        module = kind(lambda params: torch.optim.Adam(params, lr=0.02), scheduler, interval)
        loggers.append(CSVLogger(tmp_path, name=kind.__name__))
        options: dict[str, Any] = {"gradient_clip_val": 0.5, "accumulate_grad_batches": accumulated}
        if kind is Net:
            for name, value in options.items():
                setattr(module, name, value)
            options = {}
        trainer = fit(module, batches(4), logger=loggers[-1], callbacks=[LearningRateMonitor()], **options)
        rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
        found.append((module, trainer.global_step, rates, float(trainer.callback_metrics["loss_epoch"])))
    (automatic, *expected), (net, *got) = found
    assert got == expected
    assert same(net, automatic)
    assert Counter(net.called) == Counter(automatic.called)
    assert net.called.count("lr_scheduler_step") == (4 if interval == "step" else 1)
    if accumulated == 1:
        assert net.called == automatic.called
        assert rows(loggers[1]) == rows(loggers[0])


# --- one step, several evaluations ---


class Watched(Net):
    """Counts evaluations, and logs metrics."""

    def __init__(self, make: Make = adaptive) -> None:
        super().__init__(make)
        self.seen, self.evaluated, self.graphs = MeanMetric(), 0, 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        self.evaluated += 1
        loss = super().training_step(batch, batch_idx)
        self.graphs += loss.requires_grad
        self.seen(loss.detach())
        self.log("seen", self.seen, on_step=False, on_epoch=True)
        self.log_dict({"rows": float(len(batch[0])), "best": loss}, reduce_fx="sum", on_epoch=True)
        return {"loss": loss, "labels": batch[1]}


class Outputs(L.Callback):
    def __init__(self) -> None:
        self.found: list[Any] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.found.append(outputs)


def test_a_step_of_many_evaluations_counts_logs_and_calls_hooks_once(tmp_path: Path) -> None:
    net, outputs, logger = Watched(), Outputs(), CSVLogger(tmp_path)
    trainer = fit(net, batches(4), max_epochs=1, logger=logger, callbacks=[outputs])
    steps = [row for row in rows(logger) if row["loss_step"]]
    optimizer = trainer.optimizers[0]
    assert net.evaluated == optimizer.evaluations + 4 > 20
    assert trainer.global_step == 4
    for name in ("on_before_zero_grad", "optimizer_zero_grad", "optimizer_step", "on_before_optimizer_step"):
        assert net.called.count(name) == 4, name
    assert "on_before_backward" not in net.called
    assert net.graphs == 0
    assert [row["rows_step"] for row in steps] == ["32.0"] * 4
    assert float(trainer.callback_metrics["rows_epoch"]) == 128
    assert [float(row["loss_step"]) for row in steps] == pytest.approx([float(o["loss"]) for o in outputs.found])
    mean = sum(float(output["loss"]) for output in outputs.found) / 4
    assert float(trainer.callback_metrics["seen"]) == pytest.approx(mean)
    assert float(trainer.callback_metrics["loss_epoch"]) == pytest.approx(mean)
    assert torch.equal(outputs.found[-1]["labels"], digits()[1][96:128])


def test_what_is_logged_is_the_loss_at_the_parameters_that_the_step_ends_with() -> None:
    net = Watched()
    net.net = nn.Sequential(nn.Linear(64, 10))
    loader = batches(1)
    trainer = fit(net, loader, max_epochs=3)
    assert trainer.callback_metrics["loss_step"] == loss_of(net.net, next(iter(loader)))


def test_each_gradient_is_clipped_and_the_first_of_a_step_is_shown_before() -> None:
    def norm(module: nn.Module) -> float:
        return nn.utils.get_total_norm([param.grad for param in module.parameters()]).item()

    class Looking(L.Callback):
        def __init__(self) -> None:
            self.norms: list[float] = []

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            assert type(optimizer) is HybridBFO
            self.norms.append(norm(pl_module))

    class Clipping(Net):
        norms: tuple[float, ...] = ()

        def configure_gradient_clipping(self, optimizer: Any, *clip: Any) -> None:
            super().configure_gradient_clipping(optimizer, *clip)
            self.norms += (norm(self),)

    net, looking = Clipping(), Looking()
    net.gradient_clip_val = 0.1
    trainer = fit(net, batches(4), max_epochs=1, callbacks=[looking])
    assert len(net.norms) == trainer.optimizers[0].gradient_evaluations == 5
    assert max(net.norms) < 0.1001
    assert len(looking.norms) == 4
    assert min(looking.norms) > 0.2  # before it is clipped, as Lightning has it


# --- accumulation ---


def test_batches_of_unequal_size_make_one_step_with_the_mean_over_samples(tmp_path: Path) -> None:
    def sgd(params: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=0.5)

    nets = []
    for size, accumulated in ((10, 3), (30, 1)):
        net, logger = Net(sgd), CSVLogger(tmp_path, name=str(size))
        net.net = nn.Sequential(nn.Linear(64, 10, dtype=torch.float64))
        net.accumulate_grad_batches = accumulated
        images, labels = digits()
        data = TensorDataset(images[:45].double(), labels[:45])  # of 10: three, and then one and a half
        trainer = fit(net, DataLoader(data, batch_size=size), logger=logger)
        assert trainer.global_step == 4
        nets.append((net, float(trainer.callback_metrics["loss_epoch"])))
    (parts, loss), (whole, expected) = nets
    for part, one in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(part, one, rtol=1e-9, atol=1e-12)
    assert loss == pytest.approx(expected)


def test_a_batch_weighs_what_the_module_says() -> None:
    class Weighed(Net):
        def batch_weight(self, batch: Any) -> float:
            return float(batch[0][0, 0] > 0)  # only the batch that is marked counts

    images, labels = digits()
    images = images[:64].clone()
    images[:32, 0], images[32:, 0] = 0, 1
    net = Weighed(lambda params: torch.optim.SGD(params, lr=0.5))
    net.accumulate_grad_batches = 2
    fit(net, DataLoader(TensorDataset(images, labels[:64]), batch_size=32), max_epochs=1)
    alone = Net(lambda params: torch.optim.SGD(params, lr=0.5))
    fit(alone, DataLoader(TensorDataset(images[32:], labels[32:64]), batch_size=32), max_epochs=1)
    assert same(net, alone)


def test_what_waits_for_a_step_that_never_comes_is_forgotten() -> None:
    class Short(Net):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if (self.current_epoch, batch_idx) == (0, 1) else None  # the first epoch ends here

    short, whole = (kind(lambda params: torch.optim.SGD(params, lr=0.5)) for kind in (Short, Net))
    for net, epochs in ((short, 2), (whole, 1)):
        net.net[3], net.accumulate_grad_batches = nn.Identity(), 2
        fit(net, batches(2), max_epochs=epochs)
    assert same(short, whole)
    short._bfo_waiting = ((next(iter(batches())), {}),)  # as a fit that is interrupted leaves it
    short.configure_optimizers()
    assert not short._bfo_waiting


# --- checkpoints and monitors ---


def test_a_fit_resumes_to_the_bit(tmp_path: Path) -> None:
    def net() -> Net:
        module = Net(hybrid, lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9))
        module.net[3] = nn.Identity()  # Lightning keeps no random state of torch, which dropout draws from
        return module

    whole = net()
    kept = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    first = fit(whole, batches(), max_epochs=3, enable_checkpointing=True, callbacks=[kept, BFOCallback()])
    resumed = net()
    options = {"enable_checkpointing": True, "callbacks": [ModelCheckpoint(tmp_path, filename="more"), BFOCallback()]}
    with pytest.warns(UserWarning, match="is not empty"):  # of the checkpoints of the first fit
        second = fit(resumed, batches(), max_epochs=3, ckpt_path=str(tmp_path / "epoch=0.ckpt"), **options)
    assert same(resumed, whole)
    assert second.global_step == first.global_step == 18
    states = [trainer.optimizers[0].state_dict() for trainer in (first, second)]
    assert states[1]["param_groups"] == states[0]["param_groups"]
    torch.testing.assert_close(states[1]["state"], states[0]["state"], rtol=0, atol=0, equal_nan=True)
    saved = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    assert [name.split("{")[0] for name in saved["callbacks"]] == ["ModelCheckpoint"]


def test_loggers_and_progress_bar_show_how_the_colony_does(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    written = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    net, loggers = Net(adaptive), [CSVLogger(tmp_path), TensorBoardLogger(tmp_path)]
    records: list[Any] = []
    make = net.make
    net.make = lambda params: watched(make(params), records)
    callback = BFOCallback("colony", prog_bar=True)
    trainer = fit(net, batches(3), max_epochs=1, logger=loggers, callbacks=[callback], enable_progress_bar=True)
    logged = [row for row in rows(loggers[0]) if row["colony/best_loss"]]
    for name, field in (("best_loss", "best_loss"), ("diversity", "diversity"), ("evaluations", "evaluations_total")):
        values = [float(row[f"colony/{name}"]) for row in logged]
        assert values == pytest.approx([getattr(record, field) for record in records])
    assert len(logged) == len(records) == 3
    found = written.EventAccumulator(loggers[1].log_dir)
    found.Reload()
    assert [event.step for event in found.Scalars("colony/diversity")] == [0, 1, 2]
    assert "colony/best_loss" in "".join(capsys.readouterr())
    assert callback._note not in trainer.optimizers[0].on_step


def watched(optimizer: Any, records: list[Any]) -> Any:
    optimizer.on_step.append(records.append)
    return optimizer


def test_the_callback_says_so_where_there_is_no_colony() -> None:
    with pytest.raises(TypeError, match="configure_optimizers returned Adam: leave it away"):
        fit(Automatic(lambda params: torch.optim.Adam(params)), batches(1), callbacks=[BFOCallback()])


def test_a_module_that_torch_compiles_trains_alike() -> None:
    class Forward(Net):
        def forward(self, images: Tensor) -> Tensor:
            return self.net(images)

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Any:  # (without a batch_idx)
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

    graphs = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    nets = [Forward(), Forward()]
    fit(nets[0], batches(2), max_epochs=1)
    fit(torch.compile(nets[1], backend=backend), batches(2), max_epochs=1)
    assert same(*nets)
    assert graphs


# --- what is refused ---


def test_a_training_step_called_by_hand_returns_its_loss() -> None:
    class Silent(Net):
        def log(self, *args: Any, **kwargs: Any) -> None:
            """Lightning has nobody to log to outside of a fit."""

    net, batch = Silent(), next(iter(batches()))
    assert net.training_step(batch, 0).requires_grad
    fit(net, batches(1), max_epochs=1)
    assert net.training_step(batch, 0).requires_grad
    assert net._bfo_step is None


def test_the_users_exception_arrives_unchanged_and_nothing_has_moved() -> None:
    class Failing(Watched):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            if self.evaluated == 4:
                raise error
            return loss

    error, net, found = KeyError("mine"), Failing(), []
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.make = lambda params: found.append(adaptive(params)) or found[0]
    with pytest.raises(KeyError) as raised:
        fit(net, batches(1), callbacks=[BFOCallback()])
    assert raised.value is error
    assert found[0].on_step == []
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)
    assert net._bfo_step is None
    assert not found[0]._optimizer_step_pre_hooks


@pytest.mark.parametrize(
    ("returned", "error", "told"),
    [
        (lambda net, loss: None, LossTypeError, "Net.training_step returned None: return the loss"),
        (lambda net, loss: {"logits": loss}, LossTypeError, "under 'loss' .it has 'logits'."),
        (lambda net, loss: loss.item(), LossTypeError, "returned float"),
        (lambda net, loss: net.manual_backward(loss) or loss, ObjectiveError, "calls backward.. itself"),
    ],
)
def test_what_is_no_loss_is_refused(returned: Any, error: type[Exception], told: str) -> None:
    net, written = Net(), Automatic.training_step

    class Returning(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return returned(self, written(self, batch, batch_idx))

    net.__class__ = Returning
    with pytest.raises(error, match=told.replace("Net.", "Returning.")):
        fit(net, batches(1))


def test_what_cannot_be_trained_is_refused_by_name() -> None:
    from lightning.pytorch.strategies import FSDPStrategy

    net = Net()
    net._trainer = SimpleNamespace(strategy=FSDPStrategy())
    with pytest.raises(HyperparameterError, match=r"FSDPStrategy splits the parameters.*strategy=\"ddp\""):
        net.configure_optimizers()
    net._trainer = SimpleNamespace(
        strategy=None, precision="16-mixed", precision_plugin=SimpleNamespace(scaler=torch.amp.GradScaler("cpu"))
    )
    with pytest.raises(HyperparameterError, match=r"'16-mixed' scales the loss.*bf16-mixed"):
        net.configure_optimizers()
    two = Net(lambda params: [hybrid([param]) for param in list(params)[:2]])
    with pytest.raises(HyperparameterError, match="returned 2 optimizers"):
        fit(two, batches(1))
    net = Net()
    net.accumulate_grad_batches = 0
    with pytest.raises(HyperparameterError, match="accumulate_grad_batches"):
        fit(net, batches(1))
    with pytest.raises(HyperparameterError, match="leave the mixin away"):
        net.automatic_optimization = True
    with pytest.warns(UserWarning, match="does not step ReduceLROnPlateau"):
        fit(Net(hybrid, torch.optim.lr_scheduler.ReduceLROnPlateau), batches(1))


def test_a_class_that_cannot_work_is_refused_as_it_is_written() -> None:
    with pytest.raises(TypeError, match=r"put the mixin first, `class Last\(BFOTraining, LightningModule\)`"):
        type("Last", (L.LightningModule, BFOTraining), {})
    with pytest.raises(TypeError, match="each candidate would get others"):
        type("Iterating", (BFOTraining, L.LightningModule), {"training_step": lambda self, dataloader_iter: None})


def test_processes_with_data_of_their_own_keep_equal_weights(tmp_path: Path) -> None:
    program = Path(__file__).with_name("lightning_ranks.py")
    done = subprocess.run([sys.executable, program, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in ("HybridBFO", "AdaptiveBFO"):
        first, second = (torch.load(tmp_path / f"{name}{rank}.pt") for rank in range(2))
        assert first["step"] == second["step"] == 20
        assert first["weights"].keys() == second["weights"].keys()
        for key, values in first["weights"].items():
            assert torch.equal(values, second["weights"][key]), key
        assert not torch.equal(first["batch"], second["batch"])
        assert first["loss"] == second["loss"] < first["before"]
    assert "leave the mixin away for it" in (tmp_path / "refused").read_text()


@pytest.mark.parametrize("installed", [None, "lightning.pytorch", "pytorch_lightning"])
def test_whichever_lightning_is_there_is_used(monkeypatch: pytest.MonkeyPatch, installed: str | None) -> None:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(Callback=L.Callback) if name == installed else None)
    if installed is None:
        with pytest.raises(
            ImportError, match=r"BFOTraining needs Lightning \(.*\): pip install 'bfo-diag\[lightning\]'"
        ):
            adapter._callback_type()
    else:
        assert issubclass(adapter._callback_type(), L.Callback)
