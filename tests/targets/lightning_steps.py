"""LightningModules on the digits: one that is healthy, one that is cut in each way of training, and some that fail."""

from __future__ import annotations

import lightning as L  # noqa: N812
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bfo_diag.cases.digits_mlp import digits
from pytorch_bfo_optimizer import HybridBFO
from pytorch_bfo_optimizer.adapters.lightning import BFOTraining


def digits_loader(rows: int = 128) -> DataLoader:
    images, labels = digits()
    return DataLoader(TensorDataset(images[:rows], labels[:rows]), batch_size=32)


class Healthy(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(64, 16)
        self.head = nn.Linear(16, 10)

    def loss(self, hidden, labels):
        loss = nn.functional.cross_entropy(self.head(hidden), labels)
        self.log("loss", loss, prog_bar=True)  # break: log
        return loss

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return self.loss(torch.tanh(self.encoder(images)), labels)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)

    def train_dataloader(self):
        return digits_loader()


class Colony(BFOTraining, Healthy):
    def configure_optimizers(self):
        return HybridBFO(self.parameters(), population_size=4)


class Cut(Healthy):
    def training_step(self, batch, batch_idx):
        images, labels = batch
        hidden = torch.tanh(self.encoder(images)).detach()  # cut: automatic
        self.logger.experiment.add_scalar("norm", hidden.norm())
        return {"loss": self.loss(hidden, labels)}


class Manual(Healthy):
    """Two optimizers, as a GAN has them."""

    automatic_optimization = False

    def training_step(self, batch):
        images, labels = batch
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        hidden = torch.tanh(self.encoder(images))
        self.manual_backward(self.loss(hidden.detach(), labels))  # cut: manual
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.encoder, self.head)]


class SetUpLate(Cut):
    """Has no layers before `setup`, and asks its Trainer how long it will train."""

    def __init__(self) -> None:
        L.LightningModule.__init__(self)

    def setup(self, stage):
        self.encoder, self.head = nn.Linear(64, 16), nn.Linear(16, 10)

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class WithoutData(Cut):
    train_dataloader = L.LightningModule.train_dataloader


class Digits(L.LightningDataModule):
    def train_dataloader(self):
        return digits_loader()


class Prints(Healthy):
    def training_step(self, batch, batch_idx):
        print("training")  # break: print
        return super().training_step(batch, batch_idx)


class WantsWidth(Healthy):
    def __init__(self, width: int) -> None:
        super().__init__()


class LosesItsDisk(Healthy):
    def train_dataloader(self):
        raise OSError("the disk is gone")  # raises: loader


instance = Cut()


def with_loader():
    return WithoutData(), digits_loader()


def with_trainer():
    return L.Trainer(accelerator="cpu", max_epochs=1, log_every_n_steps=1), Cut()


def with_data_and_trainer():
    return Digits(), L.Trainer(accelerator="cpu", max_epochs=1), WithoutData()


def fitted_trainer():
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    logger = L.pytorch.loggers.logger.DummyLogger()
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, limit_train_batches=1, logger=logger, **quiet)
    trainer.fit(WithoutData(), digits_loader())
    return trainer


def in_two_processes():
    return L.Trainer(accelerator="cpu", devices=2), Cut()


def trainer_alone():
    return L.Trainer(accelerator="cpu")


def two_modules():
    return Cut(), Manual()


def empty_loader():
    return WithoutData(), digits_loader(rows=0)


def loses_its_disk():
    return LosesItsDisk()
