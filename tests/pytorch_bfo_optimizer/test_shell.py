from __future__ import annotations

import copy
import math
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pytorch_bfo_optimizer import BFO, FunctionObjective, HyperparameterError, NonFiniteGenerationError, StepRecord
from pytorch_bfo_optimizer.objective import Evaluator
from pytorch_bfo_optimizer.shell import ColonyOptimizer, Plan
from pytorch_bfo_optimizer.state import BaseColony, BaseHyperparameters, GenerationResult

SYNCHRONISATIONS = {"aten._local_scalar_dense", "aten.equal", "aten.nonzero", "aten.is_nonzero", "aten.item"}


class Operations(TorchDispatchMode):
    """Counts what is dispatched, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[str(func).rsplit(".", 1)[0]] += 1
        return func(*args, **(kwargs or {}))


# --- the least that a subclass gives ---


@dataclass(frozen=True)
class Cloud(BaseColony):
    """A normal distribution: one shared factor of its width, and the mean of each coordinate."""

    mean: Tensor
    width: Tensor

    split = (*BaseColony.split, "mean")


class RandomSearch(ColonyOptimizer[Cloud, BaseHyperparameters]):
    """Draws around the best, wider after a success, narrower after a failure."""

    hyperparameters_type = BaseHyperparameters
    colony_type = Cloud

    def __init__(self, params: Any, *, generator: torch.Generator | None = None, **settings: Any) -> None:
        usual = {"lr": 1.0, "population_size": 6, "bounds": None, "reevaluate": False, "chunk_size": "auto"}
        super().__init__(params, {**usual, **settings}, generator=generator, device=None)

    def _begin(self, groups: list[BaseHyperparameters], here_D: Tensor) -> Cloud:
        position_PD = here_D.expand(groups[0].population_size, -1).clone()
        return Cloud(position_PD, here_D, torch.tensor(math.inf, dtype=torch.float64), here_D, torch.tensor(1.0))

    def _resume(self, colony: Cloud, groups: list[BaseHyperparameters], moved_D: Tensor | None) -> Cloud:
        return colony if moved_D is None else self._begin(groups, moved_D)

    def _generation(self, plan: Plan[Cloud], groups: list[BaseHyperparameters]) -> GenerationResult[Cloud]:
        space, colony = self._space(groups), plan.colony
        position_PD = colony.mean + colony.width * space.normal(space.vector.dimension)
        everyone = torch.ones(space.population_size, dtype=torch.bool)
        loss_P = plan.evaluator(position_PD, everyone).nan_to_num(math.inf, math.inf)
        improved = loss_P.min() < colony.best_loss
        best_D = position_PD[loss_P.argmin()] if improved else colony.best
        width = colony.width * (1.5 if improved else 0.7)
        finite_count = loss_P.isfinite().sum().to(loss_P.dtype)
        moved_on = Cloud(position_PD, best_D, torch.minimum(loss_P.min(), colony.best_loss), best_D, width)
        return GenerationResult(moved_on, loss_P < colony.best_loss, finite_count, len(loss_P) - finite_count)

    def _generation_cost(self) -> int:
        return self._hyperparameters()[0].population_size


def test_an_optimizer_of_another_kind_needs_only_four_methods(make_bowl: Callable[..., Any]) -> None:
    bowl, records = make_bowl(), list[StepRecord]()
    optimizer = RandomSearch(bowl.params, generator=torch.Generator().manual_seed(0))
    optimizer.on_step.append(records.append)
    result = optimizer.minimize(bowl, max_evaluations=605)
    assert result.evaluations == bowl.calls == 600
    assert result.best_loss == optimizer.best_fitness < 0.5
    assert bowl.loss().item() == pytest.approx(result.best_loss)
    assert [record.evaluations for record in records] == [6] * 100
    assert set(optimizer.state[bowl.params[1]]) == {"position", "best", "mean"}
    assert optimizer.state[bowl.params[1]]["mean"].shape == (2, 2)
    assert optimizer.state[bowl.params[0]]["width"].shape == ()
    with pytest.raises(HyperparameterError, match="one generation may cost 6"):
        optimizer.minimize(bowl, max_evaluations=5)


def test_its_colony_is_saved_put_back_and_reported_like_any_other(make_bowl: Callable[..., Any]) -> None:
    bowl, other = make_bowl(), make_bowl()
    optimizer = RandomSearch(bowl.params, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        optimizer.step(bowl)
    twin = RandomSearch(other.params, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        for mine, theirs in zip(other.params, bowl.params, strict=True):
            mine.copy_(theirs)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    random, held = optimizer.generator.get_state(), [param.clone() for param in bowl.params]

    def broken() -> float:
        bowl()
        raise KeyError("mine")

    with pytest.raises(KeyError):
        optimizer.step(broken)
    assert torch.equal(optimizer.generator.get_state(), random)
    assert all(torch.equal(now, then) for now, then in zip(bowl.params, held, strict=True))
    assert [optimizer.step(bowl) for _ in range(4)] == [twin.step(other) for _ in range(4)]
    with pytest.raises(NonFiniteGenerationError, match="all 6 losses evaluated in generation 8"):
        optimizer.step(lambda: math.nan)
    assert optimizer.nonfinite_evaluations == 6


# --- what a step costs beside its evaluations ---


@pytest.mark.parametrize("swim_length", [0, 4])
def test_a_step_waits_twice_for_the_device(swim_length: int) -> None:
    """To see whether the parameters were changed from outside, and for the figures of the generation."""
    operations = []
    for bounds in (None, (-5.0, 5.0)):
        param = torch.full((10,), 2.0)
        source = torch.Generator().manual_seed(0)
        optimizer = BFO([param], swim_length=swim_length, bounds=bounds, generator=source)
        objective = FunctionObjective(lambda x_PD: (x_PD**2).sum(dim=1))
        for _ in range(2):
            optimizer.step(objective)
        with Operations() as seen:
            optimizer.step(objective)
        waits = {name: count for name, count in seen.count.items() if name in SYNCHRONISATIONS}
        assert waits in ({"aten.equal": 1}, {"aten.equal": 1, "aten._local_scalar_dense": 3})  # three of one copy
        assert seen.count["aten.stack"] == 1
        operations.append(sum(seen.count.values()))
    assert operations[0] == operations[1] < 80 + 30 * swim_length


# --- what is spread over several processes ---


@dataclass
class Doubled:
    """Stands for a sharded evaluator."""

    inner: Evaluator

    @property
    def evaluations(self) -> int:
        return self.inner.evaluations

    def __call__(self, position_PD: Tensor, active_P: Tensor) -> Tensor:
        return 2 * self.inner(position_PD, active_P)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_what_evaluates_can_be_wrapped_and_a_copy_is_not(copied: Any) -> None:
    param = torch.ones(2)
    optimizer = BFO([param], population_size=3, bounds=(0.5, 1.0))
    optimizer._shard = Doubled
    assert optimizer.step(lambda: 1.0) == 2.0
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer._shard is Doubled
    assert copied(optimizer)._shard is None
    assert optimizer.step(FunctionObjective(lambda x_PD: x_PD[:, 0] * 0 + 0.25)) == 0.5


@pytest.mark.parametrize(("chunk_size", "largest"), [(None, 7), (3, 3), (100, 7)])
def test_a_batched_objective_is_asked_for_no_more_than_a_chunk(chunk_size: int | None, largest: int) -> None:
    sizes = []

    def fn(x_PD: Tensor) -> Tensor:
        sizes.append(x_PD.shape[0])
        return (x_PD**2).sum(dim=1)

    results = []
    for size in (None, chunk_size):
        sizes.clear()
        optimizer = BFO([torch.ones(2)], population_size=7, chunk_size=size, generator=torch.Generator().manual_seed(0))
        results.append([optimizer.step(FunctionObjective(fn)) for _ in range(3)])
    assert max(sizes) == largest
    assert results[0] == results[1]
