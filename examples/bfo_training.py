"""Training a digits classifier with HybridBFO: the closure is the one that torch.optim.LBFGS takes.

python examples/bfo_training.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from pytorch_bfo_optimizer import HybridBFO

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
images = torch.tensor(images, dtype=torch.float32) / 16
labels = torch.tensor(labels)

model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
optimizer = HybridBFO(model.parameters(), population_size=10, swim_length=2)


def closure():
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    return loss


if __name__ == "__main__":
    for step in range(1, 21):
        loss = optimizer.step(closure)
        print(f"step {step:2d}  loss {float(loss):.4f}  evaluations {optimizer.evaluations}")
