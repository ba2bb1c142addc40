"""Steps of optimizers that take a closure: what the closure does at each evaluation is right, or is not."""

import functools

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from bfo_diag import Case
from pytorch_bfo_optimizer import BFO, HybridBFO, distribute
from pytorch_bfo_optimizer.objective import ModelObjective
from pytorch_bfo_optimizer.steady import SteadyClosure, steady_step

IMAGES, LABELS = load_digits(return_X_y=True)
X = torch.tensor(IMAGES[:96], dtype=torch.float32) / 16
Y = torch.tensor(LABELS[:96])
SMALL = {"population_size": 4, "swim_length": 1}


def plain() -> nn.Module:
    return nn.Linear(64, 10)


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.Dropout(0.3), nn.Linear(16, 10))


def with_statistics() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 10))


def lossy(model: nn.Module, optimizer: torch.optim.Optimizer):
    """Return a closure that only evaluates."""
    return lambda: nn.functional.cross_entropy(model(X), Y)


def going_back(model: nn.Module, optimizer: torch.optim.Optimizer):
    """Return a closure as torch's documentation has it."""

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    return closure


def stepping(make_model, make_optimizer, make_closure=going_back, step=None) -> Case:
    model = make_model()
    optimizer = make_optimizer(model.parameters())
    closure = make_closure(model, optimizer)
    if step is None:
        return Case(step=lambda: float(optimizer.step(closure)), model=model, optimizer=optimizer)
    return Case(step=lambda: step(model, optimizer, closure), model=model, optimizer=optimizer)


def bfo(parameters):
    return BFO(parameters, **SMALL)


def hybrid(parameters):
    return HybridBFO(parameters, **SMALL)


def lbfgs(parameters):
    return torch.optim.LBFGS(parameters, max_iter=4, line_search_fn="strong_wolfe")


# Faults.


def backward_each_time() -> Case:
    return stepping(plain, bfo)


def backward_in_a_partial() -> Case:
    """As Lightning hands over what it makes of a training step."""

    def in_a_partial(model, optimizer):
        return functools.partial(going_back(model, optimizer))

    return stepping(plain, bfo, in_a_partial)


class RandomSearch(torch.optim.Optimizer):
    """Somebody's own: keeps the best of a few places. It clears gradients, and never reads one."""

    def __init__(self, parameters):
        super().__init__(parameters, {})

    def step(self, closure):
        found = self.param_groups[0]["params"]
        best = float("inf")
        for _ in range(3):
            self.zero_grad()
            loss = float(closure())
            best = min(best, loss)
            for p in found:
                p.data.add_(torch.randn_like(p), alpha=0.01)
        return best


def backward_for_a_search() -> Case:
    return stepping(plain, RandomSearch)


def dropout_each_time() -> Case:
    return stepping(with_dropout, bfo, lossy)


def dropout_in_a_line_search() -> Case:
    return stepping(with_dropout, lbfgs)


def a_batch_each_time() -> Case:
    def drawing(model, optimizer):
        loader = DataLoader(TensorDataset(X, Y), batch_size=32, shuffle=True)

        def closure():
            x, y = next(iter(loader))
            return nn.functional.cross_entropy(model(x), y)

        return closure

    return stepping(plain, bfo, drawing)


def statistics_each_time() -> Case:
    return stepping(with_statistics, hybrid)


def steady_without_its_module() -> Case:
    def step(model, optimizer, closure):
        return optimizer.step(SteadyClosure(closure))

    return stepping(with_statistics, bfo, lossy, step)


def accumulating(make_optimizer, make_closure=going_back, parts=3) -> Case:
    """A step that goes back through all micro-batches but the last, and steps with a closure for that one."""

    def step(model, optimizer, closure):
        for x, y in zip(X.chunk(parts)[1:], Y.chunk(parts)[1:]):
            nn.functional.cross_entropy(model(x), y).backward()
        return float(optimizer.step(closure))

    return stepping(plain, make_optimizer, make_closure, step)


def accumulated_and_cleared() -> Case:
    return accumulating(lbfgs)


def accumulated_for_adam() -> Case:
    return accumulating(torch.optim.Adam, parts=2)


def accumulated_and_put_away() -> Case:
    return accumulating(hybrid)


def accumulated_for_nobody() -> Case:
    return accumulating(bfo, lossy)


def through_a_scaler() -> Case:
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)

    def scaling(model, optimizer):
        def closure():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(X), Y)
            scaler.scale(loss).backward()
            return loss

        return closure

    def step(model, optimizer, closure):
        closure()
        scaler.step(optimizer, closure)  # which is optimizer.step(closure)
        scaler.update()

    return stepping(plain, hybrid, scaling, step)


# Healthy ones.


def line_search() -> Case:
    return stepping(plain, lbfgs)


def steady() -> Case:
    def step(model, optimizer, closure):
        return steady_step(optimizer, closure, model)

    model = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 10))
    return stepping(lambda: model, hybrid, going_back, step)


def seeded() -> Case:
    """The closure itself sees to it that its random numbers are the same each time."""

    def held(model, optimizer):
        closure = going_back(model, optimizer)

        def seeded_closure():
            torch.manual_seed(0)
            return closure()

        return seeded_closure

    return stepping(with_dropout, lbfgs, held)


def put_back_by_the_optimizer() -> Case:
    class Search(torch.optim.Optimizer):
        """Evaluates two candidates under the same conditions, and reads gradients of both."""

        def step(self, closure):
            state = torch.get_rng_state()
            for _ in range(2):
                torch.set_rng_state(state)
                loss = closure()
                for parameter in self.param_groups[0]["params"]:
                    parameter.data.add_(parameter.grad, alpha=-0.1)
            return loss

    return stepping(with_dropout, lambda parameters: Search(parameters, {}))


def all_at_once() -> Case:
    model = with_statistics()
    optimizer = bfo(model.parameters())
    objective = ModelObjective(model, nn.functional.cross_entropy, (X, Y))
    return Case(step=lambda: optimizer.step(objective), model=model, optimizer=optimizer)


def called_once() -> Case:
    return stepping(with_dropout, torch.optim.Adam)


def evaluates_only() -> Case:
    return stepping(plain, bfo, lossy)


def all_batches() -> Case:
    """A DataLoader draws a seed at each pass, and nothing depends on it."""

    def over_all(model, optimizer):
        loader = DataLoader(TensorDataset(X, Y), batch_size=32)

        def closure():
            optimizer.zero_grad()
            losses = [nn.functional.cross_entropy(model(x), y) for x, y in loader]
            loss = torch.stack(losses).mean()
            loss.backward()
            return loss

        return closure

    return stepping(plain, lbfgs, over_all)


def called_for_its_loss() -> Case:
    def step(model, optimizer, closure):
        optimizer.step(closure)
        return float(closure())

    return stepping(plain, lbfgs, going_back, step)


def adds_to_what_was_there() -> Case:
    def adding(model, optimizer):
        def closure():
            loss = nn.functional.cross_entropy(model(X[:32]), Y[:32])
            loss.backward()
            return loss

        return closure

    case = accumulating(torch.optim.SGD, adding)
    step = case.step

    def clears_after():
        loss = step()
        case.optimizer.zero_grad()
        return loss

    return Case(step=clears_after, model=case.model, optimizer=case.optimizer)


def adversaries() -> Case:
    """The first loss leaves gradients in the second network, which its own closure has to clear."""
    maker, judge = nn.Linear(64, 64), nn.Linear(64, 1)
    makes, judges = torch.optim.SGD(maker.parameters()), lbfgs(judge.parameters())

    def step():
        makes.zero_grad()
        judge(maker(X)).mean().backward()
        makes.step()

        def closure():
            judges.zero_grad()
            loss = judge(X).sigmoid().mean() - judge(maker(X).detach()).sigmoid().mean()
            loss.backward()
            return loss

        judges.step(closure)

    return Case(step=step, model={"maker": maker, "judge": judge})


class Sharpness(torch.optim.Optimizer):
    """As in sharpness-aware minimisation: reads the gradients it finds, and calls the closure once elsewhere."""

    def __init__(self, parameters):
        super().__init__(parameters, {})
        self.base = torch.optim.SGD(self.param_groups, lr=0.1)

    @torch.no_grad()
    def step(self, closure):
        found = [p for group in self.param_groups for p in group["params"]]
        moves = [0.05 * p.grad for p in found]
        for p, move in zip(found, moves):
            p.add_(move)
        self.zero_grad()
        with torch.enable_grad():
            loss = closure()
        for p, move in zip(found, moves):
            p.sub_(move)
        self.base.step()
        return loss


def sharpness_aware() -> Case:
    def adding(model, optimizer):
        def closure():
            loss = nn.functional.cross_entropy(model(X), Y)
            loss.backward()
            return loss

        return closure

    def step(model, optimizer, closure):
        optimizer.zero_grad()
        closure()
        return float(optimizer.step(closure))

    return stepping(with_dropout, Sharpness, adding, step)


def looks_at_its_gradient_first() -> Case:
    def step(model, optimizer, closure):
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.zero_grad()
        return float(optimizer.step(closure))

    return stepping(plain, lbfgs, going_back, step)


def returns_a_loss_with_its_graph() -> Case:
    """Without gradients, and what bfo-diag itself goes back through is not the target's."""

    def step(model, optimizer, closure):
        optimizer.step(closure)
        return closure()

    return stepping(plain, bfo, lossy, step)


def several_at_once() -> Case:
    """As when a Trainer fits: many steps of the optimizer in one call, whose closure leaves no gradient behind."""

    def step(model, optimizer, closure):
        return [optimizer.step(closure) for _ in range(3)]

    return stepping(plain, hybrid, going_back, step)


class Bound(torch.optim.SGD):
    """Is stepped bare, with a closure that it was given before, and leaves no gradient behind."""

    def step(self, closure=None):
        loss = self.closure()
        super().step()
        self.zero_grad()
        return loss


def with_a_closure_of_its_own() -> Case:
    def step(model, optimizer, closure):
        optimizer.closure = closure
        for _ in range(3):
            loss = optimizer.step()
        return loss.item()

    return stepping(plain, Bound, going_back, step)


# Not told by a finding of closures.


def adam_without_backward() -> Case:
    return stepping(plain, torch.optim.Adam, lossy)


# In a process group.


def data_parallel(make_optimizer, *, data=None, averaged=False) -> Case:
    def averaging(model, optimizer):
        closure = going_back(model, optimizer)

        def averaged_closure():
            loss = closure().detach()
            torch.distributed.all_reduce(loss)
            return loss / torch.distributed.get_world_size()

        return averaged_closure

    case = stepping(lambda: DistributedDataParallel(plain()), make_optimizer, averaging if averaged else going_back)
    if data is not None:
        distribute(case.optimizer, data=data)
    return case


def each_rank_alone() -> Case:
    return data_parallel(hybrid)


def each_rank_searches_alone() -> Case:
    return data_parallel(lbfgs)


def averaged_in_the_closure() -> Case:
    return data_parallel(hybrid, averaged=True)


def distributed() -> Case:
    return data_parallel(hybrid, data="own")


def averaged_gradients() -> Case:
    return data_parallel(torch.optim.Adam)
