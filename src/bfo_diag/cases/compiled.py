"""What `bfo-diag compile` and `bench` examine without a TARGET: optimizers' steps and training steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bfo_diag.cases import char_transformer, digits_mlp
from bfo_diag.cases.optimizer_step import optimizer_case
from bfo_diag.records import Case
from pytorch_bfo_optimizer import BFO, AdaptiveBFO, HybridBFO, ModelObjective, foraging
from pytorch_bfo_optimizer.state import Colony

_POPULATION = 16


def bfo_generation(device: str = "cpu") -> Case:
    """Return a whole generation of the colony over a batched objective: one graph, noise drawn outside of it."""
    images, labels = (tensor.to(device) for tensor in digits_mlp.digits())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).to(device)
    objective = ModelObjective(model, nn.functional.cross_entropy, (images[:256], labels[:256]))
    objective.bind(list(model.parameters()))  # looks at storages, which no graph can
    start_D = torch.cat([p.detach().flatten() for p in model.parameters()])
    generator = torch.Generator().manual_seed(0)
    noise_PD = torch.randn(_POPULATION, len(start_D), generator=generator).to(device)
    bound_D = torch.full_like(start_D, 3.0)

    def evaluate(position_PD: Tensor, active_P: Tensor) -> Tensor:
        return objective.evaluate_population(position_PD)

    def generation(colony: Colony, displacement_PD: Tensor) -> Tensor:
        result = foraging.generation(colony, displacement_PD, -bound_D, bound_D, evaluate, swim_length=4, swarming=None)
        return result.colony.loss

    colony = Colony.fresh(start_D + 0.1 * noise_PD)
    return Case(step=generation, calls=((colony, 0.1 * foraging.tumble(noise_PD)),), name="bfo-generation")


def bfo_step(device: str = "cpu") -> Case:
    """Return a step of BFO with a closure."""
    return optimizer_case(BFO, device=device)


def adaptive_bfo_step(device: str = "cpu") -> Case:
    """Return a step of AdaptiveBFO with a closure."""
    return optimizer_case(AdaptiveBFO, device=device)


def hybrid_bfo_step(device: str = "cpu") -> Case:
    """Return a step of HybridBFO with a closure."""
    return optimizer_case(HybridBFO, device=device)


def original_pattern(device: str = "cpu") -> Case:
    """Return the pattern that kept the original from compiling: a Python loop over members, each with `.item()`."""
    images, labels = (tensor.to(device) for tensor in digits_mlp.digits())
    population = (torch.randn(8, 640, generator=torch.Generator().manual_seed(0)) * 0.1).to(device)

    def loss(member: Tensor) -> Tensor:
        return nn.functional.cross_entropy(images[:256] @ member.view(64, 10), labels[:256])

    def generation() -> float:
        best = float("inf")
        for index in range(len(population)):
            fitness = loss(population[index]).item()
            if fitness < best:
                best = fitness
        return best

    return Case(step=generation, name="original-pattern")


def adam_step(device: str = "cpu") -> Case:
    """Return a bare step of torch's Adam."""
    return optimizer_case(torch.optim.Adam, device=device)


def lbfgs_step(device: str = "cpu") -> Case:
    """Return a step of torch's LBFGS with its closure."""
    return optimizer_case(torch.optim.LBFGS, device=device)


digits_mlp_train_step = digits_mlp.train_step
char_transformer_train_step = char_transformer.train_step
