"""A training step as it happens, which torch.compile cuts into pieces: a number taken in the middle, a print, a list.

bfo-diag compile examples/broken_compile.py:train_step --backend aot_eager
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from bfo_diag import Case

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
images = torch.tensor(images, dtype=torch.float32) / 16
labels = torch.tensor(labels)


class Classifier(nn.Module):
    """A digits classifier that watches its own activations."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(64, 32)
        self.head = nn.Linear(32, 10)
        self.history = []

    def forward(self, x):
        """Return logits (B, 10) of images (B, 64)."""
        hidden = torch.tanh(self.encoder(x))
        self.history.append(hidden.abs().mean().item())
        if hidden.abs().max() > 0.999:
            print("saturated")
        return self.head(hidden)


def train_step():
    """Return the loss of a batch as a case; backward and the optimizer stay outside, as they should."""
    model = Classifier()

    def loss(x, y):
        return nn.functional.cross_entropy(model(x), y)

    batches = [(images[:256], labels[:256]), (images[256:512], labels[256:512]), (images[512:600], labels[512:600])]
    return Case(step=loss, model=model, calls=batches)
