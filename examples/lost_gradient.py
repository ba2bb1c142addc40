"""A training step whose encoder never learns, as it happens: the statistics are computed in NumPy.

bfo-diag gradients examples/lost_gradient.py:train_step
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
images = torch.tensor(images, dtype=torch.float32) / 16
labels = torch.tensor(labels)

encoder = nn.Sequential(nn.Linear(64, 32), nn.Tanh())
head = nn.Linear(32, 10)
optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-3)


def normalise(features):
    values = features.detach().numpy()
    return torch.from_numpy((values - values.mean(0)) / np.sqrt(values.var(0) + 1e-5))


def train_step():
    optimizer.zero_grad()
    logits = head(normalise(encoder(images)))
    loss = nn.functional.cross_entropy(logits, labels)
    loss.backward()
    optimizer.step()
    return loss.item()
