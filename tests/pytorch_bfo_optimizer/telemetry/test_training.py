"""With what a real training step brings along: mixed precision, accumulation, compile, layouts, several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import GradientCollector, TelemetryConfig

CPU_STATUS = Path("/proc/self/status")


@pytest.fixture
def batches() -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = digits()
    return zip(images[:256].split(64), labels[:256].split(64), strict=True)


@pytest.fixture
def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 40), nn.Tanh(), nn.Linear(40, 10))


def matches(found: object, model: nn.Module, twin: Callable) -> bool:
    """Whether the sample is what the twin says of the gradients as they are."""
    expected = {name: twin(p.grad).norm for name, p in model.named_parameters()}
    return dict(zip(found.names, found.norms, strict=True)) == pytest.approx(expected, rel=1e-6, abs=0)


def test_mixed_precision_with_accumulation_and_clipping(mlp: nn.Module, batches: Iterator, twin: Callable) -> None:
    optimizer = torch.optim.Adam(mlp.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    collector = GradientCollector(mlp.named_parameters())
    for images, labels in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(mlp(images), labels) / 4
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    pending = collector.collect()
    before = {name: p.grad.clone() for name, p in mlp.named_parameters()}
    total = pending.clip_(0.01)
    scaler.step(optimizer)
    scaler.update()
    found = pending.materialize()
    assert dict(zip(found.names, found.norms, strict=True)) == pytest.approx(
        {name: twin(gradient).norm for name, gradient in before.items()}, rel=1e-6
    )
    assert found.total_norm == pytest.approx(total.item())
    assert found.total_norm > 0.01
    assert collector.collect().materialize().total_norm == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_one_dtype(mlp: nn.Module, batches: Iterator, twin: Callable, dtype: torch.dtype) -> None:
    mlp.to(dtype)
    images, labels = next(batches)
    nn.functional.cross_entropy(mlp(images.to(dtype)).float(), labels).backward()
    assert matches(GradientCollector(mlp.named_parameters()).collect().materialize(), mlp, twin)


@pytest.mark.compile
@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_model_keeps_its_names(mlp: nn.Module, batches: Iterator, twin: Callable, in_place: bool) -> None:
    names = [name for name, _ in mlp.named_parameters()]
    compiled = torch.compile(mlp, backend="eager")
    if in_place:
        mlp.compile(backend="eager")
        compiled = mlp
    else:
        assert next(compiled.named_parameters())[0].startswith("_orig_mod.")
    collector = GradientCollector(compiled.named_parameters(), {"first": ["0"], "last": ["_orig_mod.2"]})
    images, labels = next(batches)
    nn.functional.cross_entropy(compiled(images), labels).backward()
    found = collector.collect().materialize()
    assert list(found.names) == names
    assert matches(found, mlp, twin)
    assert found.groups["first"].tensors == found.groups["last"].tensors == 2


@pytest.mark.compile
def test_watching_a_compiled_closure_recompiles_nothing(mlp: nn.Module, batches: Iterator) -> None:
    graphs: list[int] = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        graphs.append(len(graph.graph.nodes))
        return graph

    compiled = torch.compile(mlp, backend=counting)
    optimizer = torch.optim.LBFGS(mlp.parameters(), max_iter=2)
    images, labels = next(batches)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(compiled(images), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    before = len(graphs)
    seen: list[object] = []
    with GradientCollector(mlp.named_parameters()).watch(optimizer, [seen.append], every=2):
        for _ in range(3):
            optimizer.step(closure)
    assert (len(graphs), len(seen)) == (before, 2)


def test_channels_last_gradients_are_read_where_they_lie(batches: Iterator, twin: Callable) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.LazyLinear(10))
    images, labels = next(batches)
    pictures = images.view(-1, 1, 8, 8).to(memory_format=torch.channels_last)
    model(pictures)
    model.to(memory_format=torch.channels_last)
    nn.functional.cross_entropy(model(pictures), labels).backward()
    weight = model[2].weight
    assert not weight.grad.is_contiguous()
    assert matches(GradientCollector(model.named_parameters()).collect().materialize(), model, twin)


def child(program: str, *arguments: str) -> str:
    """Run a program in a process of its own, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


PEAK = """
import sys
import torch
from torch import nn
from pytorch_bfo_optimizer import GradientCollector, TelemetryConfig

def peak_mib():
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024

dtype, zero_every, special = getattr(torch, sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
size = 2**28 // dtype.itemsize
weight, small = nn.Parameter(torch.empty(size, dtype=dtype)), nn.Parameter(torch.ones(2000, dtype=dtype))
weight.grad, small.grad = torch.full((size,), 2.0, dtype=dtype), torch.ones(2000, dtype=dtype)
warm = GradientCollector([("s", small)], config=TelemetryConfig(zero_every=zero_every))
warm.collect().materialize()
small.grad[3] = special
warm.collect().materialize()
weight.grad[-1] = special
collector = GradientCollector([("weight", weight)], config=TelemetryConfig(zero_every=zero_every))
before = peak_mib()
found = collector.collect().materialize()
print(before, peak_mib(), found.norms[0], found.status, found.zero_share)
"""


@pytest.mark.skipif(not CPU_STATUS.exists(), reason="reads VmHWM of /proc/self/status, which Linux has")
@pytest.mark.parametrize(
    ("dtype", "zero_every", "special"),
    [
        ("float32", 0, "2"),
        ("bfloat16", 0, "2"),
        ("bfloat16", 1, "nan"),
        ("float64", 1, "inf"),
        ("float32", 1, "1e30"),
    ],
)
def test_a_gradient_of_256_mib_takes_no_memory_more(dtype: str, zero_every: int, special: str) -> None:
    # (The peak of a process of its own: ru_maxrss would begin at that of the one that started it.)
    before, after, norm, status, zeros = child(PEAK, dtype, str(zero_every), special).split()
    assert float(before) > 256
    assert float(after) - float(before) < 4
    if special == "2":
        elements = 2**28 // getattr(torch, dtype).itemsize
        assert float(norm) == pytest.approx(2 * elements**0.5, rel=1e-6, abs=0)
        assert zeros == "None"
    else:
        assert status == ("exploding" if special == "1e30" else "non-finite")


SHARDED = """
import sys, warnings
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from pytorch_bfo_optimizer import GradientCollector, UnsupportedGradientError

def wrapped(model, how):
    if how == "ddp":
        return DistributedDataParallel(model)
    if how == "fsdp2":
        return fully_shard(model) or model
    if how.startswith("fsdp1"):
        cpu = torch.device("cpu")
        return FullyShardedDataParallel(model, use_orig_params=how == "fsdp1-orig", device_id=cpu)
    mesh = init_device_mesh("cpu", (1,))
    for name, parameter in list(model[0].named_parameters()):
        setattr(model[0], name, nn.Parameter(distribute_tensor(parameter.detach(), mesh, [Shard(0)])))
    model[0].register_forward_pre_hook(lambda module, x: (distribute_tensor(x[0], mesh),))
    model[0].register_forward_hook(lambda module, x, y: y.full_tensor())
    return model

warnings.simplefilter("ignore")
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
for how in sys.argv[2:]:
    model = wrapped(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), how)
    model(torch.ones(3, 4)).sum().backward()
    try:
        said = f"measured {len(GradientCollector(model.named_parameters()).collect().materialize().norms)}"
    except UnsupportedGradientError as error:
        said = str(error)
    # The way that the error names:
    sharded = [p.grad for p in model.parameters() if hasattr(p.grad, "to_local")]
    if how.startswith("fsdp1"):
        norm = model.clip_grad_norm_(1.0)
    else:
        norm = torch.nn.utils.get_total_norm(sharded).full_tensor() if sharded else torch.zeros(())
    print(f"{how}|{said}|{float(norm) > 0}")
dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch was built without torch.distributed")
def test_what_several_processes_share_is_measured_whole_or_refused_by_name(tmp_path: Path) -> None:
    expected = {
        "ddp": "measured 4",
        "fsdp2": "0.weight: its parameter is one process's part of a DTensor",
        "tensor": "0.weight: its parameter is one process's part of a DTensor",
        "fsdp1": "_fsdp_wrapped_module._flat_param: its parameter is one process's part",
        "fsdp1-orig": "_fsdp_wrapped_module.0.weight: its parameter is one process's part",
    }
    found = [line.split("|") for line in child(SHARDED, str(tmp_path / "store"), *expected).splitlines()]
    assert [how for how, _, _ in found] == list(expected)
    for how, said, another_way in found:
        assert said.startswith(expected[how])
        assert another_way == str(how != "ddp")


def test_a_sample_of_many_tensors_is_cheap_in_operations(mlp: nn.Module) -> None:
    # A count that no machine's speed changes: at most five operations a tensor, whatever its size.
    for parameter in mlp.parameters():
        parameter.grad = torch.ones_like(parameter)
    collector = GradientCollector(mlp.named_parameters(), config=TelemetryConfig(zero_every=0))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        collector.collect().materialize()
    calls = sum(event.count for event in seen.key_averages() if event.key in {"aten::linalg_vector_norm", "aten::to"})
    assert calls < 5 * 4
