"""Training steps that each lose the gradient of `encoder` in one way, in a helper two calls deep.

The line of the cut carries the comment `cut: NAME`, and the step is called `step_NAME`.
"""

import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
inputs = torch.randn(16, 4)
wanted = torch.randn(16, 3)
labels = torch.randint(0, 3, (16,))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 3)
        self.head = nn.Linear(3, 3)


net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)


def outer(helper, hidden):
    return middle(helper, hidden)


def middle(helper, hidden):
    return helper(hidden)


def train(helper):
    optimizer.zero_grad()
    hidden = torch.tanh(net.encoder(inputs))
    hidden = outer(helper, hidden)
    loss = nn.functional.mse_loss(net.head(hidden), wanted)
    loss.backward()
    optimizer.step()
    return loss.item()


def through_detach(hidden):
    return hidden.detach()  # cut: detach


def through_data(hidden):
    return hidden.data * 2  # cut: data


def through_item(hidden):
    scale = hidden.mean().item()  # cut: item
    return inputs[:, :3] * scale


def through_numpy(hidden):
    array = hidden.detach().numpy()  # cut: numpy
    return torch.from_numpy(np.tanh(array))


def through_tensor(hidden):
    rows = [row.sum() for row in hidden]
    sums = torch.tensor(rows)  # cut: tensor
    return sums.unsqueeze(1).expand(16, 3)


def through_argmax(hidden):
    index = hidden.argmax(dim=1)  # cut: argmax
    return nn.functional.one_hot(index, 3).float()


def through_integer(hidden):
    steps = (hidden * 10).long()  # cut: integer
    return steps.float() / 10


def through_comparison(hidden):
    mask = hidden > 0  # cut: comparison
    return mask.float()


def through_no_grad(hidden):
    with torch.no_grad():
        return hidden * 3  # cut: no_grad


@torch.no_grad()
def through_decorator(hidden):
    return hidden.exp()  # cut: decorator


buffer = torch.zeros(16, 3, requires_grad=True)


def through_inplace(hidden):
    with torch.no_grad():
        buffer.copy_(hidden)  # cut: inplace
    return buffer


def through_set_data(hidden):
    buffer.data = hidden  # cut: set_data
    return buffer


def through_numpy_no_grad(hidden):
    with torch.no_grad():
        array = np.asarray(hidden)  # cut: asarray
    return torch.as_tensor(array * 1.5)


def through_tolist(hidden):
    values = hidden.tolist()  # cut: tolist
    return torch.tensor([[2 * value for value in row] for row in values])


def step_detach():
    return train(through_detach)


def step_data():
    return train(through_data)


def step_item():
    return train(through_item)


def step_numpy():
    return train(through_numpy)


def step_tensor():
    return train(through_tensor)


def step_argmax():
    return train(through_argmax)


def step_integer():
    return train(through_integer)


def step_comparison():
    return train(through_comparison)


def step_no_grad():
    return train(through_no_grad)


def step_decorator():
    return train(through_decorator)


def step_inplace():
    return train(through_inplace)


def step_set_data():
    return train(through_set_data)


def step_asarray():
    return train(through_numpy_no_grad)


def step_tolist():
    return train(through_tolist)


def step_unused():
    optimizer.zero_grad()
    nn.functional.mse_loss(net.head(inputs[:, :3]), wanted).backward()


def step_dropped():
    optimizer.zero_grad()
    net.encoder(inputs)  # cut: dropped
    nn.functional.mse_loss(net.head(inputs[:, :3]), wanted).backward()


frozen = Net()
for parameter in frozen.encoder.parameters():
    parameter.requires_grad = False  # cut: frozen


def step_frozen():
    hidden = frozen.encoder(inputs)
    return nn.functional.mse_loss(frozen.head(hidden), wanted)


leaf = torch.zeros(3, requires_grad=True)


def add_in_place(tensor):
    tensor += 1  # cut: leaf_write
    return tensor


def step_leaf_write():
    (outer(add_in_place, leaf) * 2).sum().backward()


def to_float(loss):
    return loss.item()  # cut: item_loss


def step_item_loss():
    loss = nn.functional.mse_loss(net.head(net.encoder(inputs)), wanted)
    return outer(to_float, loss)


def rewrap(loss):
    value = loss.item() * 0.5  # cut: rewrap
    return torch.tensor(value, requires_grad=True)


def step_rewrap():
    loss = nn.functional.mse_loss(net.head(net.encoder(inputs)), wanted)
    outer(rewrap, loss).backward()


def legacy(losses):
    return torch.Tensor(losses)  # cut: legacy


def step_legacy():
    loss = nn.functional.mse_loss(net.head(net.encoder(inputs)), wanted)
    outer(legacy, [loss, loss * 2]).sum().backward()


def step_healthy():
    optimizer.zero_grad()
    hidden = torch.tanh(net.encoder(inputs))
    logits = net.head(hidden)
    loss = nn.functional.cross_entropy(logits, labels)
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    moving = hidden.detach().mean().numpy()
    with torch.no_grad():
        spread = hidden.std()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    return {"loss": loss.item(), "accuracy": accuracy, "moving": moving, "spread": spread}
