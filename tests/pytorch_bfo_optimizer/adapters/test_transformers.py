"""A small Llama on the text of Python's own documentation, and a BatchNorm classifier on the digits."""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import BFO, GradientConfig, HybridBFO, HyperparameterError, NonFiniteGenerationError
from pytorch_bfo_optimizer.smart_closure import SmartClosure
from pytorch_bfo_optimizer.steady import steady_step

os.environ["HF_HUB_OFFLINE"] = "1"  # read at import
transformers = pytest.importorskip("transformers", reason="pip install 'bfo-diag[transformers]'")

from pytorch_bfo_optimizer.adapters.transformers import BFOTrainer, prepare  # noqa: E402

ADAPTER = "pytorch_bfo_optimizer.adapters.transformers"
TOKENS = torch.tensor([byte for byte in "\n".join(pydoc_data.topics.topics.values()).encode() if byte < 128])


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):  # a Trainer seeds torch
        yield


def rows(count: int = 60, length: int = 32) -> list[dict[str, Tensor]]:
    """Rows of text; of each a different part counts."""
    found = []
    for index, row in enumerate(TOKENS[: count * length].view(count, length)):
        labels = row.clone()
        labels[: index % 20] = -100
        found.append({"input_ids": row, "labels": labels})
    return found


def llama(dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        attention_dropout=dropout,
    )
    return transformers.LlamaForCausalLM(config)


def colony(model: nn.Module, cls: type[BFO] = HybridBFO, seed: int = 1, **settings: Any) -> BFO:
    return cls(model.parameters(), population_size=6, generator=torch.Generator().manual_seed(seed), **settings)


def arguments(folder: Path, **settings: Any) -> Any:
    usual = {
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "train_sampling_strategy": "sequential",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "report_to": "none",
    }
    return transformers.TrainingArguments(str(folder), **{**usual, **settings})


def logged(trainer: Any, name: str) -> list[Any]:
    return [row.get(name) for row in trainer.state.log_history if "loss" in row]


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def by_hand(model: nn.Module, optimizer: BFO, *, steps: int, bf16: bool) -> tuple[list[float], list[Any]]:
    """The same training in plain torch: two micro-batches a step, the mean over their tokens, clipped at 0.5."""
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (steps - step) / steps)
    transformers.set_seed(42)
    losses, norms = [], []
    batches = list(DataLoader(rows(), batch_size=2))[: 2 * steps]
    for pair in zip(batches[::2], batches[1::2], strict=True):
        tokens = sum((batch["labels"][:, 1:] != -100).sum() for batch in pair)
        found: list[float] = []

        def closure() -> Tensor:
            model.zero_grad()
            total = torch.zeros(())
            for batch in pair:  # noqa: B023 - called in this turn of the loop
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss = model(**batch, num_items_in_batch=tokens).loss  # noqa: B023
                loss.backward()
                total += loss.detach()
            found.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.5)))  # noqa: B023
            return total

        free = not isinstance(optimizer, HybridBFO)
        losses.append(
            steady_step(optimizer, SmartClosure(closure, optimizer.vector.params) if free else closure, model)
        )
        norms.append(next((norm for norm in reversed(found) if norm > 0), None))
        scheduler.step()
    return losses, norms


GUIDED = {"gradient_config": GradientConfig(mode="hybrid", check_every=2)}


@pytest.mark.parametrize(
    ("cls", "settings", "bf16", "steps"),
    [
        (HybridBFO, {}, True, 12),
        (HybridBFO, {"gradient_config": None}, False, 4),
        (HybridBFO, GUIDED, False, 4),
        (BFO, {}, False, 4),
    ],
)
def test_a_trainer_goes_the_way_of_the_loop_written_by_hand_to_the_bit(
    tmp_path: Path, cls: type[BFO], settings: dict[str, Any], bf16: bool, steps: int
) -> None:
    expected, found = llama(), llama()
    losses, norms = by_hand(expected, colony(expected, cls, **settings), steps=steps, bf16=bf16)
    optimizer = colony(found, cls, **settings)
    training = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.5, "max_steps": steps, "bf16": bf16}
    trainer = BFOTrainer(found, arguments(tmp_path, **training), train_dataset=rows(), optimizers=(optimizer, None))
    before = weights(found)
    report = trainer.train()
    assert logged(trainer, "loss") == losses
    assert logged(trainer, "grad_norm") == norms
    assert logged(trainer, "learning_rate") == [(steps - step) / steps for step in range(steps)]
    assert torch.equal(weights(found), weights(expected))
    assert not torch.equal(weights(found), before)
    assert losses[-1] < losses[0]
    assert report.training_loss == pytest.approx(sum(losses) / steps)
    assert optimizer.generation == trainer.state.global_step == steps
    took = [norm is not None for norm in norms]
    assert took == ([False] * steps if cls is BFO else [True, False] * 2 if settings is GUIDED else [True] * steps)
    assert all(norm > 0.5 for norm in norms if norm)  # it was clipped


def test_the_mean_is_over_the_tokens_of_all_micro_batches(tmp_path: Path) -> None:
    model = llama(dropout=0.0)
    optimizer = colony(model, lr=0.0)
    with torch.no_grad():
        scores = [model(row["input_ids"][None]).logits[0, :-1] for row in rows(4)]
    targets = [row["labels"][1:] for row in rows(4)]
    expected = nn.functional.cross_entropy(torch.cat(scores), torch.cat(targets))
    settings = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 1, "max_steps": 1}
    trainer = BFOTrainer(model, arguments(tmp_path, **settings), train_dataset=rows(4), optimizers=(optimizer, None))
    trainer.train()
    assert logged(trainer, "loss") == [pytest.approx(float(expected), rel=1e-6)]


def test_a_run_resumed_from_a_checkpoint_equals_one_without_a_break(tmp_path: Path) -> None:
    def run(name: str, seed: int, checkpoint: str | None = None) -> tuple[Any, BFO]:
        model = llama()
        optimizer = colony(model, seed=seed)
        shuffled = {"train_sampling_strategy": "random", "save_strategy": "steps", "save_steps": 6, "max_steps": 14}
        trainer = BFOTrainer(
            model,
            arguments(tmp_path / name, gradient_accumulation_steps=2, **shuffled),
            train_dataset=rows(20),
            optimizers=(optimizer, None),
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer, optimizer

    whole, expected = run("whole", 1)
    resumed, found = run("resumed", 2, str(tmp_path / "whole" / "checkpoint-6"))
    assert torch.equal(weights(resumed.model), weights(whole.model))
    for name in ("loss", "grad_norm", "learning_rate"):
        assert logged(resumed, name) == logged(whole, name)
    assert found.evaluations == expected.evaluations
    assert torch.equal(found.population, expected.population)
    assert torch.equal(found.generator.get_state(), expected.generator.get_state())


class Noted(transformers.TrainerCallback):
    """The callbacks in their order, and what they find."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.calls, self.changed = model, [], []
        self.seen = weights(model)

    def on_event(self, event: str, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.calls.append((event, state.global_step))
        if event == "on_pre_optimizer_step" or event == "on_optimizer_step":
            self.changed.append(not torch.equal(weights(self.model), self.seen))
            self.seen = weights(self.model)


for _name in dir(transformers.TrainerCallback):
    if _name.startswith("on_"):

        def _note(self: Noted, *args: Any, _event: str = _name, **kwargs: Any) -> None:
            self.on_event(_event, *args, **kwargs)

        setattr(Noted, _name, _note)


def test_callbacks_come_in_the_order_of_the_stock_trainer(tmp_path: Path) -> None:
    calls = []
    for cls in (BFOTrainer, transformers.Trainer):
        model = llama()
        noted = Noted(model)
        optimizer = colony(model) if cls is BFOTrainer else torch.optim.AdamW(model.parameters())
        settings = arguments(tmp_path, gradient_accumulation_steps=2, max_steps=3, logging_steps=2)
        trainer = cls(model, settings, train_dataset=rows(), optimizers=(optimizer, None), callbacks=[noted])
        trainer.train()
        calls.append(noted.calls)
        assert noted.changed == [False, True] * 3
        assert all(parameter.grad is None for parameter in model.parameters())
    assert calls[0] == calls[1]
    assert ("on_substep_end", 2) in calls[0]


class Classifier(nn.Module):
    """Digits, with BatchNorm and dropout; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))
        self.calls, self.with_graph = 0, 0

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        scores = self.body(pixels)
        self.with_graph += scores.requires_grad
        return {"loss": nn.functional.cross_entropy(scores, labels), "logits": scores}


class Mine(transformers.Trainer):
    """A Trainer of the user's own."""

    steps = 0

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        self.steps += 1
        return super().training_step(*args, **kwargs)


@pytest.mark.parametrize("cls", [HybridBFO, BFO])
def test_any_trainer_can_be_prepared_and_buffers_move_once_a_step(tmp_path: Path, cls: type[BFO]) -> None:
    images, labels = digits()
    data = [{"pixels": image, "labels": label} for image, label in TensorDataset(images[:512], labels[:512])]
    model = Classifier()
    optimizer = colony(model, cls)
    steps = 40 if cls is HybridBFO else 3
    trainer = Mine(
        model,
        arguments(tmp_path, per_device_train_batch_size=64, gradient_accumulation_steps=2, max_steps=steps),
        train_dataset=data,
        optimizers=(optimizer, None),
    )
    assert prepare(prepare(trainer)) is trainer
    trainer.train()
    norm = model.body[1]
    assert norm.num_batches_tracked == 2 * steps
    # each evaluation is one of both micro-batches; a step with several settles with one more
    assert 2 * optimizer.evaluations < trainer.steps == model.calls <= 2 * (optimizer.evaluations + steps)
    assert model.with_graph == (0 if cls is BFO else 2 * optimizer.evaluations)
    losses = logged(trainer, "loss")
    assert losses[-1] < (0.9 if cls is HybridBFO else losses[0])


def test_an_optimizer_may_be_made_by_the_trainer_and_used_by_hand_afterwards(tmp_path: Path) -> None:
    model = llama()
    trainer = BFOTrainer(
        model,
        arguments(tmp_path, max_steps=3, warmup_steps=2, lr_scheduler_type="constant_with_warmup"),
        train_dataset=rows(),
        optimizer_cls_and_kwargs=(HybridBFO, {"lr": 1.0, "population_size": 4}),
    )
    trainer.train()
    optimizer = trainer.optimizer.optimizer
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.0]
    assert logged(trainer, "learning_rate") == [0.0, 0.5, 1.0]
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    generation = optimizer.generation
    assert isinstance(optimizer.step(lambda: model(**rows(1)[0] | {"input_ids": TOKENS[None, :32]}).loss), float)
    assert optimizer.generation == generation + 1


def test_what_a_colony_cannot_do_is_refused_before_the_first_step(tmp_path: Path) -> None:
    def refused(kind: type[Exception], words: str, change: Callable[[Any], None] | None = None, **given: Any) -> None:
        model = llama()
        settings = arguments(tmp_path, max_steps=1, weight_decay=given.pop("weight_decay", 0.0))
        trainer = BFOTrainer(model, settings, train_dataset=rows(2), **given)
        if change is not None:
            change(trainer)
        with pytest.raises(kind, match=words):
            trainer.train()

    def scaled(trainer: Any) -> None:
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu")

    def split(trainer: Any) -> None:
        class Splits(transformers.TrainerCallback):
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                trainer.is_fsdp_enabled = True

        trainer.callback_handler.callbacks.insert(0, Splits())

    made = {"optimizer_cls_and_kwargs": (HybridBFO, {})}
    refused(TypeError, r"this Trainer's optimizer is AdamW: pass optimizers=\(HybridBFO")
    refused(HyperparameterError, r"group 0 asks for weight_decay=0.1, .*set Train", weight_decay=0.1, **made)
    refused(HyperparameterError, "use bf16=True", scaled, **made)
    refused(HyperparameterError, "DeepSpeed and FSDP split the parameters", split)


class Forgetful(BFOTrainer):
    """Loses its second micro-batch."""

    fails = False

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        if self.fails and torch.equal(inputs["input_ids"][0], rows()[2]["input_ids"]):
            raise IndexError("no such page")
        return super().compute_loss(model, inputs, *args, **kwargs)


class Impatient(transformers.TrainerCallback):
    """Wants no second micro-batch."""

    fails = False

    def on_substep_end(self, *args: Any, **kwargs: Any) -> None:
        if self.fails:
            raise TimeoutError("too long")


def test_what_is_raised_reaches_the_user_and_the_next_training_is_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def run(*, fails: bool) -> tuple[nn.Module, list[float]]:
        model, callback = llama(), Impatient()
        settings = arguments(tmp_path, max_steps=2, gradient_accumulation_steps=2)
        given = {"train_dataset": rows(), "optimizers": (colony(model), None), "callbacks": [callback]}
        trainer = Forgetful(model, settings, **given)
        before = weights(model)
        for failing, kind in ((trainer, IndexError), (callback, TimeoutError)):
            failing.fails = fails
            if fails:
                with pytest.raises(kind, match=r"no such page|too long"):
                    trainer.train()
            failing.fails = False
            assert torch.equal(weights(model), before)
        transformers.set_seed(1)
        trainer.train()
        return model, logged(trainer, "loss")

    (found, losses), (expected, expected_losses) = run(fails=True), run(fails=False)
    assert losses == expected_losses
    assert torch.equal(weights(found), weights(expected))


class Unlucky(Classifier):
    """Raises at the end of its third call, or never has a loss that is finite."""

    def __init__(self, raised: type[Exception]) -> None:
        super().__init__()
        self.raised, self.met = raised, list[Tensor]()

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.met.append(torch.get_rng_state())
        found = super().forward(pixels, labels)
        if self.raised is NonFiniteGenerationError:
            found["loss"] = found["loss"] * float("nan")
        elif self.calls == 3:
            raise self.raised("no such page")
        return found


@pytest.mark.parametrize("raised", [IndexError, NonFiniteGenerationError])
def test_nothing_of_a_step_that_raised_is_left_for_the_users_own(tmp_path: Path, raised: type[Exception]) -> None:
    images, labels = digits()
    data = [{"pixels": image, "labels": label} for image, label in zip(images[:64], labels[:64], strict=True)]
    model = Unlucky(raised)
    optimizer = BFO(model.parameters(), population_size=4)
    trainer = BFOTrainer(model, arguments(tmp_path), train_dataset=data, optimizers=(optimizer, None))
    before = [buffer.clone() for buffer in model.buffers()]
    with pytest.raises(raised):
        trainer.train()
    if raised is IndexError:
        assert torch.equal(torch.get_rng_state(), model.met[0])
        assert all(map(torch.equal, model.buffers(), before))
    calls = model.calls
    optimizer.step(lambda: 1.0)
    assert model.calls == calls


def trained(folder: Path, *, steps: int, accumulated: int, seed: int) -> tuple[list[float], nn.Module, BFO]:
    model = llama(dropout=0.0)
    optimizer = colony(model, seed=seed)
    settings = {"gradient_accumulation_steps": accumulated, "max_steps": steps, "max_grad_norm": 0.0}
    trainer = BFOTrainer(model, arguments(folder, **settings), train_dataset=rows(), optimizers=(optimizer, None))
    trainer.train()
    return logged(trainer, "loss"), model, optimizer


def test_two_processes_train_one_colony_on_data_of_their_own(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "error",
        str(Path(__file__).with_name("two_processes.py")),
        __file__,
        str(tmp_path),
    ]
    subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
    (losses, held, noise), other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert [losses, held, noise] == other
    assert len(losses) == 20
    alone, _, _ = trained(tmp_path, steps=20, accumulated=4, seed=1)  # two micro-batches of each of the two
    assert losses[:8] == pytest.approx(alone[:8], rel=1e-4)
    assert losses[-1] < losses[0] - 0.5


def be_rank(rank: int, folder: Path) -> None:
    """What each of the two processes does."""
    losses, model, optimizer = trained(folder, steps=20, accumulated=2, seed=1 + rank)
    assert optimizer._shard is None
    facts = [losses, weights(model).tolist(), optimizer.generator.get_state().tolist()]
    (folder / f"{rank}.json").write_text(json.dumps(facts))


def test_without_transformers_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, ADAPTER)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ImportError, match=r"^BFOTrainer needs Transformers \(.*\): pip install 'bfo-diag\[transformers\]'$"
    ):
        import_module(ADAPTER)
