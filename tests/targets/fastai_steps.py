"""Learners on the digits: one that is healthy, one that is cut, and some that fail."""

from __future__ import annotations

from functools import partial

import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from torch import nn

from bfo_diag.cases.digits_mlp import digits


def data(rows: int = 128):
    images, labels = digits()
    pairs = list(zip(images[:rows], labels[:rows], strict=True))
    return DataLoaders(DataLoader(pairs, bs=32, drop_last=True), DataLoader(pairs, bs=32))


class Net(nn.Module):
    def __init__(self, cut=False):
        super().__init__()
        self.encoder = nn.Linear(64, 16)
        self.head = nn.Linear(16, 10)
        self.cut = cut

    def forward(self, images):
        hidden = torch.tanh(self.encoder(images))
        if self.cut:
            hidden = hidden.detach()  # cut: forward
        return self.head(hidden)


class Scales(Callback):
    """Changes each batch, as an augmentation does."""

    def before_batch(self):
        self.learn.xb = tuple(x * 2 for x in self.xb)


healthy = Learner(data(), Net(), loss_func=nn.CrossEntropyLoss(), lr=0.01)


def with_torchs_optimizer():
    opt_func = partial(OptimWrapper, opt=torch.optim.SGD)
    return Learner(data(), Net(), nn.CrossEntropyLoss(), opt_func, lr=0.1, wd=0.0, moms=(0, 0, 0), cbs=Scales())


def cut():
    return Learner(data(), Net(cut=True), nn.CrossEntropyLoss(), partial(OptimWrapper, opt=torch.optim.Adam))


def too_few_rows():
    return Learner(data(rows=20), Net(), nn.CrossEntropyLoss())


class LosesItsDisk(list):
    def __getitem__(self, index):
        raise OSError("the disk is gone")  # raises: dataset


lost = Learner(
    DataLoaders(DataLoader(LosesItsDisk(range(64)), bs=32), DataLoader([], bs=32)), Net(), nn.CrossEntropyLoss()
)
