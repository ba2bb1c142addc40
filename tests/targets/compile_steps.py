"""Steps with a known right answer: where they break the graph, what is compiled again, what is compiled at all."""

from __future__ import annotations

import torch
from torch import nn

from bfo_diag import Case

x4 = torch.linspace(-1, 1, 4)


def print_before_the_first_operation():
    def step(x):
        print("hello")
        return x * 2 + 1

    return Case(step=step, calls=[(x4,)])


def print_before_an_operation_on_a_global():
    print("hello")
    return x4 * 2 + 1


def print_in_a_loop():
    def step(x):
        for _ in range(3):
            x = x + 1
            print("hello")
        return x

    return Case(step=step, calls=[(x4,)])


def _helper(x):
    y = x.sin()
    print("hello")
    return y.cos()


def nested_helper_prints():
    return _helper(x4 + 1) * 2


def while_on_a_tensor():
    x = torch.ones_like(x4)
    while x.sum() < 100:
        x = x + 1
    return x * 2


def item_in_the_middle():
    y = x4.sum().item()
    return x4 * y


def boolean_mask():
    return x4[x4 > 0] * 2


def nothing_to_compile():
    return 3


def sgd_closure():
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(8, 4), torch.randn(8, 2)

    def closure():
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return Case(step=closure, model=model, optimizer=optimizer)


def bound_adam_step():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3, 4)).sum().backward()
    return Case(step=optimizer.step, model=model, optimizer=optimizer)


def lbfgs_step():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    x = torch.linspace(-1, 1, 32).view(8, 4)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        return loss

    return Case(step=lambda: optimizer.step(closure), model=model, optimizer=optimizer)


def four_shapes():
    def step(x):
        return x.sin() + 1

    return Case(step=step, calls=[(torch.ones(size),) for size in (4, 5, 6, 7)])


class StepCounter(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.step = 0

    def forward(self, x):
        self.step += 1
        return self.linear(x) * self.step


def counting_module():
    model = StepCounter()
    x = torch.ones(2, 4)
    return Case(step=lambda: model(x), model=model)


def twelve_strings():
    def step(x, name):
        return x * 2 if name == "k3" else x + len(name)

    return Case(step=step, calls=[(x4, f"k{index}") for index in range(12)])


def raises_a_value_error():
    y = x4 + 1
    raise ValueError("mine, not the compiler's", y.shape)


def float_learning_rate():
    weights = torch.ones(4)
    state = {"lr": 0.1}

    def step():
        state["lr"] *= 0.9
        return weights - state["lr"] * x4

    return Case(step=step)


@torch.compile(backend="aot_eager")
def _already_compiled(x):
    return x.sin() * 2


def compiles_itself():
    return _already_compiled(x4)


@torch.compile(backend="aot_eager", fullgraph=True)
def _wants_one_graph(x):
    print("hello")
    return x * 2


def fullgraph_of_its_own():
    return _wants_one_graph(x4)


@torch.compiler.disable
def disabled():
    return x4 * 2


def calls_a_disabled_helper():
    return disabled() + x4.cos()


def custom_generator():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, generator=generator) + x4


def clean():
    return (x4.sin() + x4.cos()).sum()


def sets_the_stance():
    torch.compiler.set_stance("force_eager")
    return Case(step=clean)


def only_raises_when_compiled():
    torch.compiler.set_stance("default")
    return x4.sin()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x):
        return torch.relu(self.linear(x))


class SortOfFrozen(Net):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


def wrong_when_compiled():
    weight = torch.ones(4, requires_grad=True)

    def step():
        factor = 2.0 if torch.compiler.is_compiling() else 1.0
        with torch.no_grad():
            weight.sub_(0.1 * factor * weight)
        return weight.sum()

    return Case(step=step, parameters={"weight": weight})


def draws_random_numbers():
    weight = torch.ones(64, requires_grad=True)

    def step():
        noise = torch.randn(64)
        with torch.no_grad():
            weight.add_(0.1 * noise)
        return weight.sum()

    return Case(step=step, parameters={"weight": weight})


def python_float_that_changes():
    weight = torch.ones(4)

    def step(x, lr):
        return x * lr + weight

    return Case(step=step, calls=[(x4, 0.1 * 0.9**index) for index in range(4)])


def mostly_eager_and_compiles_itself():
    doubled = torch.compile(lambda x: x * 2, backend="aot_eager")

    def step(x):
        y = doubled(x)
        for _ in range(9):
            y = y.sin()
        return y

    return Case(step=step, calls=[(x4,)])


def compiles_its_forward():
    model = nn.Linear(4, 2)
    loss = torch.compile(lambda x: model(x).square().sum(), backend="aot_eager")

    def step():
        model.zero_grad()
        loss(x4).backward()

    return Case(step=step, model=model)


def uneven_calls():
    @torch.compiler.disable
    def helper(x, count):
        for _ in range(count):
            x = x.sin()
        return x

    def step(x, count):
        return helper(x * 2, count) + 1

    return Case(step=step, calls=[(x4, 1), (x4, 8)])


def endless_in_the_compiler():
    if torch.compiler.is_compiling():
        n = 0
        while True:
            n += 1
    return x4 * 2


def bad_case():
    return Case(step=clean, calls=[x4])


class OwnSignal(BaseException):
    pass


def raises_a_base_exception():
    raise OwnSignal("mine")


class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(x)

    def loss(self, x):
        return self.forward(x).square().mean()


def bypasses_the_compiled_module():
    model = torch.compile(WithLoss(), backend="aot_eager")

    def step():
        return model.loss(x4)

    return Case(step=step, model=model)


def compiled_module_that_breaks():
    def f(x):
        y = x * 2
        print("hello")
        return y + 1

    compiled = torch.compile(f, backend="aot_eager")
    return Case(step=lambda x: compiled(x), calls=[(x4,)])


def four_strings():
    def step(x, name):
        return x * 2 if name == "k3" else x + len(name)

    return Case(step=step, calls=[(x4, f"k{index}") for index in range(4)])
