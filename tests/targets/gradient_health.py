"""Training steps whose gradients are healthy, vanish, explode, die, turn NaN, or come in unusual ways."""

import itertools
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import nn

from bfo_diag import Case
from pytorch_bfo_optimizer import HybridBFO

IMAGES, LABELS = load_digits(return_X_y=True)
X = torch.tensor(IMAGES[:128], dtype=torch.float32) / 16
Y = torch.tensor(LABELS[:128])


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for above, below in itertools.pairwise(widths):
        layers += [nn.Linear(above, below), activation()]
    return nn.Sequential(*layers[:-1])


def training(model: nn.Module, lr: float = 0.1, scale: float = 1.0) -> Case:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y) * scale
        loss.backward()
        optimizer.step()
        return loss

    return Case(step=step, model=model, optimizer=optimizer)


def healthy() -> Case:
    return training(mlp(64, 32, 10))


def vanishing() -> Case:
    return training(mlp(64, *[16] * 14, 10, activation=nn.Sigmoid), lr=0.01)


def exploding() -> Case:
    return training(mlp(64, 32, 10), lr=1e-9, scale=1e8)


def dead() -> Case:
    model = mlp(64, 32, 16, 10)
    with torch.no_grad():
        model[2].bias.fill_(-100.0)
    return training(model)


def nan_at_step_4() -> Case:
    model = mlp(64, 32, 16, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    done = 0

    def step() -> torch.Tensor:
        nonlocal done
        done += 1
        optimizer.zero_grad()
        hidden = model[:3](X)
        if done == 4:
            hidden = hidden + (hidden - hidden.detach()).abs().sqrt()  # adds 0, whose derivative is infinite
        loss = nn.functional.cross_entropy(model[3:](hidden), Y)
        loss.backward()
        optimizer.step()
        return loss

    return Case(step=step, model=model, optimizer=optimizer)


def cut() -> Case:
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model[2](model[:2](X).detach()), Y)
        loss.backward()
        optimizer.step()
        return loss

    return Case(step=step, model=model, optimizer=optimizer)


# A plain step of a script, whose model and optimizer are globals.
script_model = mlp(64, 32, 10)
script_optimizer = torch.optim.Adam(script_model.parameters(), lr=1e-3)


def plain_step() -> float:
    script_optimizer.zero_grad()
    loss = nn.functional.cross_entropy(script_model(X), Y)
    loss.backward()
    script_optimizer.step()
    script_optimizer.zero_grad()
    return loss.item()


def loss_alone() -> torch.Tensor:
    return nn.functional.cross_entropy(script_model(X), Y)


def two_optimizers() -> Case:
    models = {"first": mlp(64, 16, 10), "second": mlp(64, 8, 10)}
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models.values()]

    def step() -> torch.Tensor:
        for model, optimizer in zip(models.values(), optimizers):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(X), Y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return Case(step=step, model=models)


def with_closure(make: Callable[..., torch.optim.Optimizer], **options: int) -> Case:
    model = mlp(64, 16, 10)
    optimizer = make(model.parameters(), **options)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    return Case(step=lambda: optimizer.step(closure), model=model, optimizer=optimizer)


def lbfgs() -> Case:
    return with_closure(torch.optim.LBFGS, max_iter=2)


def hybrid() -> Case:
    """HybridBFO takes the gradient of its first closure call, and puts `.grad` back."""
    return with_closure(HybridBFO, population_size=4)


def scaled() -> Case:
    """The scale begins so high that float16 overflows: the scaler leaves the first steps out."""
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**23)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = nn.functional.cross_entropy(model(X), Y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return Case(step=step, model=model, optimizer=optimizer)


def scaled_and_fused() -> Case:
    """A fused optimizer divides the gradients by the scale itself, while it steps."""
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return Case(step=step, model=model, optimizer=optimizer)


def accumulated() -> Case:
    """Two backward passes a step; only the whole of both is what the optimizer uses."""
    model = mlp(64, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        for half, labels in zip(X.chunk(2), Y.chunk(2)):
            loss = nn.functional.cross_entropy(model(half), labels) / 2
            loss.backward()
        optimizer.step()
        return loss

    return Case(step=step, model=model, optimizer=optimizer)


class Sharded(torch.Tensor):
    """Stands for the part of a tensor that one process of several holds."""

    def to_local(self) -> torch.Tensor:
        return torch.Tensor(self)


def sharded() -> Case:
    weight = torch.nn.Parameter(torch.ones(3))

    def step() -> None:
        weight.grad = torch.ones(3).as_subclass(Sharded)

    return Case(step=step, parameters={"weight": weight})


def raises_at_step_3() -> Case:
    case = healthy()
    done = 0

    def step() -> torch.Tensor:
        nonlocal done
        done += 1
        if done == 3:
            raise ValueError("no more data")
        return case.step()

    return Case(step=step, model=case.model, optimizer=case.optimizer)
