"""Optimizers as a third party writes them, with the faults that people meet."""

import functools
import math
import time

import torch
from torch.optim import Optimizer


class RandomSearch(Optimizer):
    """Calls the closure for each candidate as it stands; what the closure raises comes out."""

    def __init__(self, params, population_size=20, scale=0.005):
        super().__init__(params, {"population_size": population_size, "scale": scale})

    def evaluate(self, closure):
        loss = closure()
        return loss.item() if isinstance(loss, torch.Tensor) else loss

    def step(self, closure):
        group = self.param_groups[0]
        parameters = group["params"]
        best = [p.detach().clone() for p in parameters]
        best_loss = self.evaluate(closure)
        for _ in range(group["population_size"]):
            with torch.no_grad():
                for p, b in zip(parameters, best):
                    p.copy_(b + group["scale"] * torch.randn_like(b))
            loss = self.evaluate(closure)
            if loss < best_loss:
                best_loss, best = loss, [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p, b in zip(parameters, best):
                p.copy_(b)
        return best_loss


class SwallowingSearch(RandomSearch):
    """Turns whatever the closure raises into an infinite loss."""

    def evaluate(self, closure):
        try:
            return super().evaluate(closure)
        except Exception:
            return math.inf


class Thawing(RandomSearch):
    """Switches requires_grad on to get its way, and leaves it so."""

    def step(self, closure):
        for p in self.param_groups[0]["params"]:
            p.requires_grad_(True)
        return super().step(closure)


class WantsMore(RandomSearch):
    """Takes an argument that has no default."""

    def __init__(self, params, temperature):
        super().__init__(params)
        self.temperature = temperature


Given = functools.partial(WantsMore, temperature=1.0)


class Hangs(RandomSearch):
    """Never comes back from its first step."""

    def step(self, closure):
        closure()
        while True:
            time.sleep(0.05)


class Endless(RandomSearch):
    """Goes on evaluating for ever."""

    def step(self, closure):
        while True:
            closure()


class ParameterError(ValueError):
    """Of the same name as one of the library's errors, and none of them."""


class Broken(RandomSearch):
    """Raises an error of its own."""

    def step(self, closure):
        raise ParameterError("planted")


class CannotBeMade(RandomSearch):
    """Raises when it is made."""

    def __init__(self, params):
        super().__init__(params)
        raise RuntimeError("no such licence")


class Careless(RandomSearch):
    """Leaves gradients switched off, and a hook on every parameter."""

    def step(self, closure):
        loss = super().step(closure)
        torch.set_grad_enabled(False)
        for p in self.param_groups[0]["params"]:
            p.register_hook(lambda gradient: gradient) if p.requires_grad else None
        return loss
