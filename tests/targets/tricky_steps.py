"""Steps in which autograd's graph is not what the Python code looks like."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

torch.manual_seed(0)
inputs = torch.randn(8, 4)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def custom_function():
    net = nn.Linear(4, 3)
    return Double.apply(net(inputs)).pow(2).sum()


def custom_function_then_cut():
    net = nn.Linear(4, 3)
    head = nn.Linear(3, 1)
    hidden = Double.apply(net(inputs))
    return head(hidden.detach()).sum()  # cut: after_function


def checkpointed():
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    hidden = checkpoint(net, inputs.clone().requires_grad_(), use_reentrant=True)
    hidden.pow(2).sum().backward()


student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
student_optimizer = torch.optim.SGD(student.parameters(), lr=0.01)


def moving_teacher():
    student_optimizer.zero_grad()
    with torch.no_grad():
        wanted = teacher(inputs)
    nn.functional.mse_loss(student(inputs), wanted).backward()
    student_optimizer.step()
    with torch.no_grad():
        for t, s in zip(teacher.parameters(), student.parameters()):
            t.mul_(0.9).add_(s, alpha=0.1)


generator, critic = nn.Linear(2, 4), nn.Linear(4, 1)
generator_optimizer = torch.optim.Adam(generator.parameters())
critic_optimizer = torch.optim.Adam(critic.parameters())


def adversarial():
    fake = generator(inputs[:, :2])
    critic_optimizer.zero_grad()
    (critic(fake.detach()).mean() - critic(inputs).mean()).backward()
    critic_optimizer.step()
    generator_optimizer.zero_grad()
    (-critic(fake).mean()).backward()
    generator_optimizer.step()


weights = [torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)]
lbfgs = torch.optim.LBFGS(weights, max_iter=3)


def with_closure():
    def closure():
        lbfgs.zero_grad()
        loss = (inputs @ (weights[0] * weights[1])).pow(2).mean()
        loss.backward()
        return loss

    return float(lbfgs.step(closure))


def gradient_penalty():
    net = nn.Linear(4, 1)
    x = inputs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).pow(2).sum(), x, create_graph=True)
    return slope.pow(2).mean() + net(x).mean()


def grad_only():
    return [g.norm().item() for g in torch.autograd.grad((weights[0] * weights[1]).sum(), weights)]


def rounded():
    net = nn.Linear(4, 3)
    return torch.round(net(inputs)).sum()  # cut: rounded


def not_a_number():
    net = nn.Linear(4, 3)
    return torch.sqrt(net(inputs) * 0).sum()


def huge():
    net = nn.Linear(4, 3)
    return (net(inputs) * 1e9).pow(2).sum()


def tiny():
    net = nn.Linear(4, 3)
    return (net(inputs) * 1e-12).sum()


stale = nn.Linear(4, 3)
stale_optimizer = torch.optim.SGD(list(nn.Linear(4, 3).parameters()) + [stale.bias], lr=0.1)


def wrong_optimizer():
    stale(inputs).sum().backward()
    stale_optimizer.step()


def through_alias():
    net = nn.Linear(4, 3)
    head = nn.Linear(3, 1)
    hidden = torch.zeros(8, 3)
    hidden.data.copy_(net(inputs))  # cut: alias
    return head(hidden).sum()


def ensemble():
    net = nn.Linear(4, 3)
    scales = torch.ones(5, requires_grad=True)
    return torch.func.vmap(lambda s: net(inputs * s).sum())(scales).sum()


def hidden_state():
    cell, read = nn.GRUCell(4, 3), nn.Linear(3, 1)
    state = torch.zeros(8, 3)
    loss = torch.zeros(())
    for index in range(4):
        state = cell(inputs, state)
        loss = loss + read(state).mean()
        if index == 1:
            state = state.detach()
    return loss


def bfo_step():
    from pytorch_bfo_optimizer import HybridBFO

    net = nn.Linear(4, 3)
    optimizer = HybridBFO(net.parameters(), population_size=4, swim_length=1)

    def closure():
        optimizer.zero_grad()
        loss = net(inputs).pow(2).mean()
        loss.backward()
        return loss

    return float(optimizer.step(closure))
