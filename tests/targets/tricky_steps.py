"""Steps in which autograd's graph is not what the Python code looks like."""

import functools

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


class Forgetful(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        return torch.round(x / scale) * scale

    @staticmethod
    def backward(ctx, gradient):  # cut: function
        return gradient, None


def function_returns_none():
    net = nn.Linear(4, 3)
    scale = nn.Parameter(torch.tensor(0.1))
    return Forgetful.apply(net(inputs), scale).pow(2).sum()


class NotDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x * 2
        ctx.mark_non_differentiable(y)
        return y

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def function_without_graph():
    net, head = nn.Linear(4, 3), nn.Linear(3, 1)
    hidden = NotDifferentiable.apply(net(inputs))  # cut: not_differentiable
    return head(hidden).sum()


def checkpoint_without_input_gradient():
    net, head = nn.Linear(4, 3), nn.Linear(3, 1)
    hidden = checkpoint(net, inputs, use_reentrant=True)  # cut: reentrant
    return head(hidden).sum()


first, second, third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)


def inner(x):
    hidden = first(x).detach()  # cut: in_checkpoint
    return second(hidden)


def cut_in_a_checkpoint():
    return third(checkpoint(inner, inputs.clone().requires_grad_(), use_reentrant=True)).sum()


def asked_inputs():
    third(second(inputs)).sum().backward(inputs=list(third.parameters()))


turn = 0


def loses_it_later():
    global turn
    turn += 1
    hidden = second(inputs)
    return third(hidden if turn == 1 else hidden.detach()).sum()  # cut: later


def input_gradient():
    x = inputs.clone().requires_grad_()
    loss = third(x).pow(2).sum()
    loss.backward()
    return float(x.grad.norm())


def scaled():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    optimizer = torch.optim.SGD(third.parameters(), lr=1e-3)
    loss = third(inputs).pow(2).mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


def returns_a_dictionary():
    hidden = third(inputs)
    return {"logits": hidden, "loss": hidden.pow(2).mean(), "name": "x"}


def returns_a_tuple():
    hidden = third(inputs)
    return hidden.pow(2).mean(), hidden


def evolution():
    with torch.no_grad():
        for parameter in third.parameters():
            noise = torch.randn_like(parameter)
            parameter.grad = noise * third(inputs).pow(2).mean().item()


def functional_gradients():
    def loss(weights, x):
        return torch.func.functional_call(third, weights, (x,)).pow(2).mean()

    weights = dict(third.named_parameters())
    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, inputs)
    return {name: gradient.norm().item() for name, gradient in per_sample.items()}


def only_logged():
    monitor = second(inputs).mean().item()
    batch = torch.randn(8, 4)
    (third(batch).pow(2).mean() * torch.tensor(0.5)).backward()
    return monitor


def equal_numbers():
    log = {"weight": third.bias.item()}
    second(inputs).pow(2).sum().backward()
    return log


hyper, main_net = nn.Linear(4, 12), nn.Linear(4, 3)


def assigned_parameter():
    main_net.weight = nn.Parameter(hyper(inputs).mean(0).view(3, 4))  # cut: assigned
    return main_net(inputs).pow(2).sum()


def variable():
    hidden = torch.autograd.Variable(second(inputs).data, requires_grad=True)  # cut: variable
    return third(hidden).sum()


def samples():
    noise = torch.distributions.Normal(second(inputs), 1.0).sample()  # cut: sample
    return third(noise).sum()


third_optimizer = torch.optim.SGD(third.parameters(), lr=0.01)


def steps_without_backward():
    third_optimizer.zero_grad()
    loss = third(inputs).pow(2).mean()
    third_optimizer.step()
    return loss


def clears_too_late():
    third(inputs).pow(2).mean().backward()
    third_optimizer.zero_grad()
    third_optimizer.step()


def loss_is_nan():
    (third(inputs).pow(2).mean() + float("nan")).backward()


def scaled_by_a_number():
    factor = second(inputs).mean().item() * 2  # cut: factor
    return (third(inputs) * factor).sum()


class Runs:
    def __call__(self):
        return third(inputs).sum()


@functools.wraps(Runs())
def wraps_an_object():
    return third(inputs).sum()


def with_an_empty_cell():
    def step():
        return third(inputs).sum() if True else later

    if inputs is None:
        later = 1
    return step


empty_cell = with_an_empty_cell()
frozen_tensor = torch.ones(4, 1)
frozen_tensor.requires_grad = False  # cut: frozen_tensor
frozen_optimizer = torch.optim.SGD([frozen_tensor], lr=0.1)


def frozen_at_import():
    frozen_optimizer.zero_grad()
    return third(inputs).sum() + (inputs @ frozen_tensor).sum()


def edge_of_the_graph():
    hidden = third(inputs)
    edge = torch.autograd.graph.get_gradient_edge(hidden)
    (slope,) = torch.autograd.grad((hidden * 3).sum(), (edge,), retain_graph=True)
    (hidden * slope).sum().backward()


embedding = nn.Embedding(10, 4, padding_idx=0)
with torch.no_grad():
    nn.init.zeros_(embedding.weight[0])


def padded_embedding():
    """A row written into through a view, under no_grad: torch refuses to say what made that view."""
    with torch.no_grad():
        embedding.weight[0].fill_(0)
    embedding(torch.tensor([1, 2])).sum().backward()
