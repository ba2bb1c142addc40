"""Under DistributedDataParallel, with gloo, in two processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import hashlib, json, sys
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from pytorch_bfo_optimizer.compile_policy import CompilePolicy

rank, world, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)


def refuses(gm, inputs):
    raise RuntimeError("not on this rank")


def train(policy, bucket_view=False):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.2), nn.Tanh(), nn.Linear(32, 4))
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=bucket_view)
    optimizer = torch.optim.Adam(ddp.parameters(), lr=0.01)
    torch.manual_seed(10 + rank)  # each rank its own data and dropout
    data, labels = torch.randn(64, 16), torch.randint(4, (64,))

    def step(size=32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(ddp(data[:size]), labels[:size])
        loss.backward()
        optimizer.step()
        return loss.item()

    if policy is not None:
        assert policy.apply(ddp, probe=step) is ddp
    losses = [step(32 if turn < 4 else 48) for turn in range(8)]
    weights = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in ddp.parameters())).hexdigest()
    report = policy.report(ddp) if policy is not None else None
    return {
        "losses": losses,
        "weights": weights,
        "keys": list(ddp.state_dict()),
        "report": report and report.to_dict(),
    }


def apply(**settings):
    return CompilePolicy(**{"enabled": True, "backend": "eager", **settings})


results = {
    "eager": train(None),
    "compiled": train(apply()),
    "bucket views": train(apply(), bucket_view=True),
    "aot": train(apply(backend="aot_eager")),
    "fails on one rank": train(apply(backend="eager" if rank == 0 else refuses)),
    "is missing on one rank": train(apply(backend="eager" if rank == 0 else "no-such-backend")),
    "auto, fails on one rank": train(
        apply(enabled="auto", steps=10_000, least_compile_s=0, backend="eager" if rank == 0 else refuses)
    ),
    "auto": train(apply(enabled="auto", steps=10_000, least_compile_s=0)),
}
print(json.dumps(results))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ddp")
    (folder / "train.py").write_text(PROGRAM, "utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(folder / "train.py")]
    running = [
        subprocess.Popen(
            [*command, str(rank), "2", str(folder / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=240) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, said, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in said]


HOW = (
    "compiled",
    "bucket views",
    "aot",
    "fails on one rank",
    "is missing on one rank",
    "auto, fails on one rank",
    "auto",
)


@pytest.mark.parametrize("how", HOW)
def test_two_processes_train_as_in_eager(ranks: list[dict[str, Any]], how: str) -> None:
    for rank in ranks:
        for name in ("losses", "weights", "keys"):
            assert rank[how][name] == rank["eager"][name], name
    assert ranks[0][how]["weights"] == ranks[1][how]["weights"]


def test_each_rank_tells_of_its_own(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        for how in ("compiled", "bucket views", "aot"):
            report = rank[how]["report"]
            assert (report["status"], report["reason"]) == ("APPLIED", "")
            assert (report["calls"], report["calls_compiled"], report["breaks"]) == (8, 8, [])
            assert report["proved"] == ["forward", "backward", "optimizer step"]
    one, other = (rank["fails on one rank"]["report"] for rank in ranks)
    assert (one["status"], one["calls_compiled"]) == ("APPLIED", 8)
    assert (other["status"], other["calls"]) == ("NOT APPLIED", 0)
    assert "not on this rank" in other["reason"]


@pytest.mark.parametrize("how", ["is missing on one rank", "auto, fails on one rank"])
def test_where_one_cannot_run_the_same_steps_no_rank_does(ranks: list[dict[str, Any]], how: str) -> None:
    one, other = (rank[how]["report"] for rank in ranks)
    assert (one["status"], other["status"]) == ("NOT APPLIED", "NOT APPLIED")
    assert one["reason"].startswith("another process of its DDP group could not compile it")
    assert "no-such-backend" in other["reason"] or "not on this rank" in other["reason"]


def test_the_ranks_decide_alike(ranks: list[dict[str, Any]]) -> None:
    one, other = (rank["auto"]["report"]["decision"] for rank in ranks)
    assert one == other
    assert one["t_compiled"] > 0
