"""A LightningModule as its users write it, with an optimizer that evaluates candidates: what Lightning makes of it."""

import logging

import lightning
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from pytorch_bfo_optimizer import BFO

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
IMAGES, LABELS = load_digits(return_X_y=True)
batches = DataLoader(
    TensorDataset(torch.tensor(IMAGES[:64], dtype=torch.float32) / 16, torch.tensor(LABELS[:64])), batch_size=16
)
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(64, 10)

    def training_step(self, batch, index):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self):
        return BFO(self.parameters(), population_size=4, swim_length=1)


def fits():
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", accumulate_grad_batches=2, **QUIET)
    trainer.fit(Classifier(), batches)


class Manual(Classifier):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        self.manual_backward(super().training_step(batch, index))
        self.optimizers().step()


def trainer_argument():
    lightning.Trainer(automatic_optimization=False)


def clips():
    lightning.Trainer(max_steps=1, accelerator="cpu", gradient_clip_val=1.0, **QUIET).fit(Manual(), batches)


def accumulates():
    lightning.Trainer(max_steps=1, accelerator="cpu", accumulate_grad_batches=2, **QUIET).fit(Manual(), batches)


def bare():
    lightning.Trainer(max_steps=2, accelerator="cpu", **QUIET).fit(Manual(), batches)


def data_of_the_other_package():
    import pytorch_lightning

    class Other(pytorch_lightning.LightningDataModule):
        def train_dataloader(self):
            return batches

    lightning.Trainer(max_steps=1, accelerator="cpu", **QUIET).fit(Classifier(), datamodule=Other())


def two_packages():
    import pytorch_lightning

    class Other(pytorch_lightning.LightningModule):
        pass

    lightning.Trainer(max_steps=1, accelerator="cpu", **QUIET).fit(Other(), batches)
