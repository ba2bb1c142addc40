"""What each of two processes does in `test_lightning`: Lightning starts this program once more for the second."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L  # noqa: N812 - as Lightning's own documentation has it
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pytorch_bfo_optimizer as library
from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import HyperparameterError
from pytorch_bfo_optimizer.adapters.lightning import BFOCallback, BFOTraining


class Net(BFOTraining, L.LightningModule):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 4), nn.Tanh(), nn.Dropout(0.1), nn.Linear(4, 10))
        self.make, self.batch, self.before = make, torch.empty(0), 0.0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.batch = batch[0]
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.before = self.before or float(loss)
        self.log("loss", loss, sync_dist=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make(self.parameters())


def fit(make: Any, steps: int) -> tuple[Net, L.Trainer]:
    net, (images, labels) = Net(make), digits()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[BFOCallback()] if steps > 1 else [],
    )
    trainer.fit(net, DataLoader(TensorDataset(images[:320], labels[:320]), batch_size=32))
    return net, trainer


def main(folder: Path) -> None:
    torch.manual_seed(int(os.environ.get("LOCAL_RANK", "0")))  # DDP makes the parameters equal, and nobody the rest
    for name in ("HybridBFO", "AdaptiveBFO"):
        net, trainer = fit(getattr(library, name), 20)
        assert trainer.optimizers[0]._shard is None
        facts = {"weights": net.state_dict(), "batch": net.batch, "before": net.before, "step": trainer.global_step}
        loss = float(trainer.callback_metrics["loss"])
        torch.save({**facts, "loss": loss}, folder / f"{name}{trainer.global_rank}.pt")
    try:
        fit(torch.optim.Adam, 1)
    except HyperparameterError as error:
        (folder / "refused").write_text(str(error))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
