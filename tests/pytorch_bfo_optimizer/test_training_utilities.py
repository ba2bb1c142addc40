"""What torch offers around a training loop: averaged weights, clipping, checkpoints of DCP, compile, DataParallel."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import BFO, AdaptiveBFO, HybridBFO, SmartClosure
from pytorch_bfo_optimizer.accumulation import accumulate
from pytorch_bfo_optimizer.seasons import COVARIANCE, DIFFERENTIAL
from pytorch_bfo_optimizer.steady import steady_step

FAMILY = (BFO, AdaptiveBFO, HybridBFO)


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def network(seed: int = 0) -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)), seed)


def normed() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10)))


def batches(count: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = digits()
    source = torch.Generator().manual_seed(seed)
    for _ in range(count):
        index = torch.randint(0, 1500, (64,), generator=source)
        yield images[index], labels[index]


def held_out(model: nn.Module) -> float:
    images, labels = digits()
    training = model.training
    model.eval()
    with torch.no_grad():
        loss = float(cross_entropy(model(images[1500:]), labels[1500:]))
    model.train(training)
    return loss


# --- averaged weights ---


def test_swa_averages_what_the_parameters_hold_after_the_steps() -> None:
    model = normed()
    optimizer = HybridBFO(model.parameters(), generator=torch.Generator().manual_seed(0))
    averaged = AveragedModel(model)
    taken: list[list[Tensor]] = []
    single: list[float] = []
    for step, (x, y) in enumerate(batches(80)):
        steady_step(optimizer, lambda x=x, y=y: cross_entropy(model(x), y), model)
        if step >= 60:
            averaged.update_parameters(model)
            taken.append([param.detach().clone() for param in model.parameters()])
            single.append(held_out(model))
    means = [torch.stack(each).mean(dim=0) for each in zip(*taken, strict=True)]
    torch.testing.assert_close([param.detach() for param in averaged.module.parameters()], means)

    images = digits()[0][:1500]
    update_bn(torch.utils.data.DataLoader(images, batch_size=500), averaged)
    hidden = averaged.module[0](images).detach()
    torch.testing.assert_close(averaged.module[1].running_mean, hidden.mean(dim=0), rtol=1e-4, atol=1e-5)
    assert held_out(averaged) < sum(single) / len(single) < 0.5 * held_out(normed())


def test_ema_follows_the_steps() -> None:
    model = network()
    optimizer = HybridBFO(model.parameters())
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    wanted = [param.detach().clone() for param in model.parameters()]
    for step, (x, y) in enumerate(batches(30)):
        optimizer.step(lambda x=x, y=y: cross_entropy(model(x), y))
        averaged.update_parameters(model)
        for mean, param in zip(wanted, model.parameters(), strict=True):
            mean.lerp_(param.detach(), 1.0 if step == 0 else 0.2)
    torch.testing.assert_close([param.detach() for param in averaged.parameters()], wanted)
    assert held_out(averaged) < 0.5 * held_out(network())


# --- clipping ---


def clipping(model: nn.Module, x: Tensor, y: Tensor, most: float, factor: float = 1.0) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        model.zero_grad()
        loss = cross_entropy(model(x), y) * factor
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), most)
        return loss

    return closure


def test_the_gradient_is_taken_as_the_closure_clipped_it() -> None:
    model, (x, y) = network(), next(batches(1))
    found = SmartClosure(clipping(model, x, y, 0.01), model.parameters()).gradient()
    assert float(torch.cat([grad.flatten() for grad in found.grads]).norm()) == pytest.approx(0.01, rel=1e-4)
    whole = SmartClosure(clipping(model, x, y, 1e9), model.parameters()).gradient()
    assert float(torch.cat([grad.flatten() for grad in whole.grads]).norm()) > 0.1


@pytest.mark.parametrize("seed", [0, 1])
def test_clipping_holds_off_one_wild_batch(seed: int) -> None:
    def train(most: float) -> float:
        model = network(seed)
        optimizer = HybridBFO(model.parameters(), generator=torch.Generator().manual_seed(seed))
        for step, (x, y) in enumerate(batches(60, seed)):
            optimizer.step(clipping(model, x, y, most, factor=1000.0 if step == 20 else 1.0))
        return held_out(model)

    assert train(0.5) < 0.6 * train(1e9)


# --- torch.distributed.checkpoint ---

alone = pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning")


def started(cls: Any, model: nn.Module) -> Any:
    settings = {} if cls is HybridBFO else {"population_size": 6}
    return cls(model.parameters(), generator=torch.Generator().manual_seed(1), **settings)


def states(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    weights, colony = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": colony}


def steps(model: nn.Module, optimizer: Any, count: int, seed: int) -> list[Any]:
    losses = [optimizer.step(lambda x=x, y=y: cross_entropy(model(x), y)) for x, y in batches(count, seed)]
    return [*losses, *(param.detach().clone() for param in model.parameters())]


def same(found: list[Any], wanted: list[Any]) -> bool:
    return all(
        torch.equal(mine, theirs) if isinstance(mine, Tensor) else mine == theirs
        for mine, theirs in zip(found, wanted, strict=True)
    )


@alone
@pytest.mark.parametrize("cls", FAMILY)
def test_a_fresh_optimizer_goes_on_from_a_checkpoint_to_the_bit(cls: Any, tmp_path: Path) -> None:
    model = network()
    optimizer = started(cls, model)
    steps(model, optimizer, 4, seed=0)
    dcp.save(states(model, optimizer), checkpoint_id=tmp_path)
    wanted = steps(model, optimizer, 4, seed=1)

    model = network(seed=5)
    optimizer = started(cls, model)
    read = states(model, optimizer)
    dcp.load(read, checkpoint_id=tmp_path)
    set_state_dict(model, optimizer, model_state_dict=read["model"], optim_state_dict=read["optimizer"])
    assert optimizer.generation == 4
    assert same(steps(model, optimizer, 4, seed=1), wanted)


@alone
def test_an_adaptive_colony_goes_on_from_any_season_by_way_of_a_file(tmp_path: Path) -> None:
    def made(start: float) -> tuple[nn.Module, AdaptiveBFO, Callable[[], Tensor]]:
        model = nn.Linear(2, 1)
        for param in model.parameters():
            nn.init.constant_(param, start)
        loss = lambda: sum((param - 0.3).abs().sum() for param in model.parameters())  # noqa: E731
        return model, AdaptiveBFO(model.parameters(), generator=torch.Generator().manual_seed(0)), loss

    model, optimizer, loss = made(0.0)
    optimizer.step(loss)
    while optimizer._stored().clock.season == COVARIANCE:
        optimizer.step(loss)
    assert optimizer._stored().clock.season == DIFFERENTIAL
    dcp.save(states(model, optimizer), checkpoint_id=tmp_path / "folder")
    wanted = [optimizer.step(loss) for _ in range(20)]

    model, optimizer, loss = made(9.0)
    read = states(model, optimizer)
    with pytest.raises(dcp.api.CheckpointException, match="Size mismatch"):  # of other shapes in this season
        dcp.load(read, checkpoint_id=tmp_path / "folder")
    dcp_to_torch_save(tmp_path / "folder", tmp_path / "file.pt")
    read = torch.load(tmp_path / "file.pt", weights_only=True)
    set_state_dict(model, optimizer, model_state_dict=read["model"], optim_state_dict=read["optimizer"])
    assert [optimizer.step(loss) for _ in range(20)] == wanted


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("shapes", [((3,),), ((50,), (5, 4))])
def test_no_two_tensors_of_a_state_share_an_element(cls: Any, shapes: Any) -> None:
    """A checkpoint is read into them in place."""
    params = [torch.ones(shape, requires_grad=True) for shape in shapes]
    optimizer = started(cls, nn.ParameterList(params))
    optimizer.step()
    for generation in range(3):
        kept = [
            (f"{name} of {index} in generation {generation}", _elements(value))
            for index, values in optimizer.state_dict()["state"].items()
            for name, value in values.items()
            if isinstance(value, Tensor)
        ]
        for name, elements in kept:
            assert len(set(elements)) == len(elements), name
        for (name, elements), (other, others) in combinations(kept, 2):
            assert not set(elements) & set(others), (name, other)
        optimizer.step(lambda: sum((param**2).sum() for param in optimizer.param_groups[0]["params"]))


def _elements(tensor: Tensor) -> list[int]:
    """The addresses of a tensor's elements."""
    steps = torch.zeros(tensor.shape, dtype=torch.int64)
    for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        steps += (torch.arange(size) * stride).reshape([size if axis == each else 1 for each in range(tensor.dim())])
    found: list[int] = (tensor.data_ptr() + steps.flatten() * tensor.element_size()).tolist()
    return found


# --- torch.compile of what the closure calls ---


class Counted:
    """A backend that counts the graphs it is given and the times they run."""

    def __init__(self) -> None:
        self.graphs, self.runs = 0, 0

    def __call__(self, graph: Any, example_inputs: Any) -> Callable[..., Any]:
        self.graphs += 1

        def run(*args: Any) -> Any:
            self.runs += 1
            return graph(*args)

        return run


@pytest.mark.compile
@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("micro", [1, 2])
def test_one_graph_serves_all_steps_and_candidates(cls: Any, micro: int) -> None:
    torch._dynamo.reset()
    backend, calls = Counted(), []
    losses = {}
    for compiled in (True, False):
        model = network()
        optimizer = started(cls, model)

        def loss_of(x: Tensor, y: Tensor, model: nn.Module = model) -> Tensor:
            return cross_entropy(model(x), y)

        run = torch.compile(loss_of, backend=backend, fullgraph=True) if compiled else loss_of

        def evaluate(x: Tensor, y: Tensor, run: Any = run) -> Tensor:
            calls.append(None)
            return run(x, y)

        losses[compiled] = []
        for x, y in batches(6):
            parts = list(zip(x.chunk(micro), y.chunk(micro), strict=True))
            closure = accumulate([lambda part=part, evaluate=evaluate: evaluate(*part) for part in parts])
            losses[compiled].append(optimizer.step(closure))
        if compiled:
            assert backend.graphs == 1
            assert backend.runs == len(calls)
            assert len(calls) >= 6 * micro
    assert losses[True] == pytest.approx(losses[False], rel=1e-6)
    torch._dynamo.reset()


@pytest.mark.compile
def test_the_gradient_of_a_graph_of_autograd_trains() -> None:
    torch._dynamo.reset()
    model = network()
    optimizer = HybridBFO(model.parameters())
    loss_of = torch.compile(lambda x, y: cross_entropy(model(x), y), backend="aot_eager", fullgraph=True)
    torch._dynamo.utils.counters.clear()
    for x, y in batches(40):
        optimizer.step(lambda x=x, y=y: loss_of(x, y))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert optimizer.gradient_evaluations >= 40
    assert held_out(model) < 0.5 * held_out(network())
    torch._dynamo.reset()


# --- DataParallel ---


def test_data_parallel_trains_as_the_module_does() -> None:
    def train(wrap: Callable[[nn.Module], nn.Module]) -> tuple[list[Any], float]:
        inner = network()
        model = wrap(inner)
        return steps(model, started(HybridBFO, model), 30, seed=0), held_out(inner)

    found, loss = train(nn.DataParallel)
    wanted, _ = train(copy.copy)
    assert same(found, wanted)
    assert loss < 0.5 * held_out(network())
