"""Steps whose optimizer never moves anything, and steps that only look like it."""

import torch
from torch import nn

from bfo_diag import Case

X, Y = torch.randn(32, 8), torch.randint(0, 3, (32,))


def training(after, *, lr=0.1, clears=True) -> Case:
    model = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def step():
        if clears:
            optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        loss.backward()
        after(model, optimizer)
        return loss

    return Case(step=step, model=model, optimizer=optimizer)


def forgets_to_step() -> Case:
    return training(lambda model, optimizer: None)


def without_a_rate() -> Case:
    return training(lambda model, optimizer: optimizer.step(), lr=0.0)


def moves_them_itself() -> Case:
    def move(model, optimizer):
        for parameter in model.parameters():
            parameter.data -= 0.1 * parameter.grad

    return training(move)


def steps_every_eighth_time() -> Case:
    turns = iter(range(1, 100))

    def step(model, optimizer):
        if next(turns) % 8 == 0:
            optimizer.step()

    return training(step, clears=False)


def warms_up() -> Case:
    case = training(lambda model, optimizer: optimizer.step())
    scheduler = torch.optim.lr_scheduler.LambdaLR(case.optimizer, lambda done: done / 10)

    def step():
        case.step()
        scheduler.step()

    return Case(step=step, model=case.model, optimizer=case.optimizer)


def looks_for_a_scale() -> Case:
    """The scale begins so high that float16 overflows: the scaler leaves out every step at first."""
    model = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)

    def step():
        optimizer.zero_grad()
        scaler.scale(nn.functional.cross_entropy(model(X), Y).half()).backward()
        scaler.step(optimizer)
        scaler.update()

    return Case(step=step, model=model, optimizer=optimizer)


def loss_alone() -> Case:
    model = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step():
        optimizer.zero_grad()
        return nn.functional.cross_entropy(model(X), Y)

    return Case(step=step, model=model, optimizer=optimizer)
