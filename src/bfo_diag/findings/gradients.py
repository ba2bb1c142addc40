"""Why a parameter has no gradient, or one that can't train it; and how an optimizer fails to get one."""

from bfo_diag.findings import Entry
from bfo_diag.records import Severity

_NOTES = "https://pytorch.org/docs/stable/notes/autograd.html"
_ERROR, _WARNING, _NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

ENTRIES = (
    # The graph is cut: the code ends in the reason that the trace gives.
    Entry(
        "GRAD-CUT-DETACH",
        _ERROR,
        why="detach() returns the same values without their history: nothing before it gets a gradient through it.",
        fix="drop the detach() on the way to the loss; keep it for values that are only logged or stored",
        url="https://pytorch.org/docs/stable/generated/torch.Tensor.detach.html",
    ),
    Entry(
        "GRAD-CUT-DATA",
        _ERROR,
        why=".data reads or writes values behind autograd's back: the history is lost, or silently wrong.",
        fix="use the tensor itself in place of its .data; to write values, compute a new tensor",
        url=_NOTES,
    ),
    Entry(
        "GRAD-CUT-ITEM",
        _ERROR,
        why="item(), float(), int() and tolist() return Python numbers; autograd does not follow them.",
        fix="keep the tensor for the loss, and take the Python number only for printing",
        url="https://pytorch.org/docs/stable/generated/torch.Tensor.item.html",
    ),
    Entry(
        "GRAD-CUT-NUMPY",
        _ERROR,
        why="NumPy arrays have no history: what is computed in NumPy gets no gradient.",
        fix="do the computation with torch functions in place of NumPy's",
        url="https://pytorch.org/docs/stable/generated/torch.Tensor.numpy.html",
    ),
    Entry(
        "GRAD-CUT-TENSOR",
        _ERROR,
        why="torch.tensor(...) copies values into a new leaf without history, also when it is given tensors.",
        fix="use the tensor itself; to join several, torch.stack or torch.cat",
        url="https://pytorch.org/docs/stable/generated/torch.tensor.html",
    ),
    Entry(
        "GRAD-CUT-INTEGER",
        _ERROR,
        why="integers and booleans have no derivative: argmax, comparisons and casts to them end the graph.",
        fix="give the loss the scores (logits) themselves, or a soft form: softmax, sigmoid, Gumbel-softmax",
        url=_NOTES,
    ),
    Entry(
        "GRAD-CUT-NO_GRAD",
        _ERROR,
        why="under torch.no_grad() no history is recorded.",
        fix="compute what the loss needs outside the no_grad() block or decorator",
        url=_NOTES + "#locally-disable-grad-doc",
    ),
    Entry(
        "GRAD-CUT-INFERENCE_MODE",
        _ERROR,
        why="under torch.inference_mode() no history is recorded, and its tensors can't enter autograd later.",
        fix="compute what the loss needs outside inference_mode()",
        url=_NOTES + "#inference-mode",
    ),
    Entry(
        "GRAD-CUT-INPLACE",
        _ERROR,
        why="a leaf can't be overwritten within the graph: autograd refuses, or under no_grad() forgets the source.",
        fix="compute a new tensor in place of writing into the leaf (w = w + x as a new name, torch.where, torch.cat)",
        url=_NOTES + "#in-place-operations-with-autograd",
    ),
    Entry(
        "GRAD-CUT-NO_DERIVATIVE",
        _ERROR,
        why="the operation returns a result that autograd does not connect to its inputs.",
        fix="use a differentiable operation, or write a torch.autograd.Function with a backward of its own",
        url=_NOTES,
    ),
    Entry(
        "GRAD-CUT-LEAF",
        _ERROR,
        why="nn.Parameter(...) and Variable(...) begin a new leaf: the values are taken over, their history is not.",
        fix="keep the parameter as it is, and use the computed tensor itself: torch.func.functional_call runs a module "
        "with tensors in place of its parameters",
        url="https://pytorch.org/docs/stable/generated/torch.func.functional_call.html",
    ),
    Entry(
        "GRAD-CUT-FUNCTION",
        _ERROR,
        why="the backward of this custom autograd.Function returned None for the input that leads there.",
        fix="return a gradient in that place of the tuple that backward returns",
        url="https://pytorch.org/docs/stable/notes/extending.html",
    ),
    Entry(
        "GRAD-CUT-CHECKPOINT",
        _ERROR,
        why="a reentrant checkpoint records no graph when none of its inputs requires grad.",
        fix="pass use_reentrant=False to torch.utils.checkpoint.checkpoint",
        url="https://pytorch.org/docs/stable/checkpoint.html",
    ),
    Entry(
        "GRAD-CUT-SAMPLE",
        _ERROR,
        why="sample() of a distribution draws without gradients.",
        fix="use rsample() where the distribution has it, else the log_prob of the sample (score function)",
        url="https://pytorch.org/docs/stable/distributions.html",
    ),
    # No gradient, and no single operation to blame.
    Entry(
        "GRAD-UNUSED",
        _WARNING,
        why="no operation of the step took the parameter.",
        fix="use it in forward, or remove it; under DDP it also needs find_unused_parameters=True",
    ),
    Entry(
        "GRAD-DROPPED",
        _WARNING,
        why="the parameter was used, but nothing that was computed from it reached the loss.",
        fix="add what is computed there to the loss, or remove the computation",
    ),
    Entry(
        "GRAD-FROZEN",
        _NOTE,
        why="requires_grad is False, so autograd leaves the parameter alone.",
        fix="if it should train, call requires_grad_(True) before the forward pass",
        url=_NOTES + "#setting-requires-grad",
    ),
    Entry(
        "GRAD-ALL-FROZEN",
        _ERROR,
        why="no parameter requires grad, so there is nothing to go back to: backward() raises «element 0 of tensors "
        "does not require grad and does not have a grad_fn».",
        fix="call requires_grad_(True) on what should train; an optimizer that evaluates candidates without gradients "
        "needs a closure without backward(), or pytorch_bfo_optimizer.SmartClosure around it",
        url=_NOTES + "#setting-requires-grad",
    ),
    Entry(
        "GRAD-NO-BACKWARD",
        _ERROR,
        why="the step ran no backward pass, and returned no loss to go back from.",
        fix="call loss.backward() in the step, or return the loss as a tensor",
    ),
    Entry(
        "GRAD-NOT-IN-OPTIMIZER",
        _WARNING,
        why="the parameter gets a gradient, but no optimizer of the step holds it.",
        fix="make the optimizer after the last change to the model (to(device), new layers), from its parameters()",
    ),
    Entry(
        "GRAD-STEP-WITHOUT-BACKWARD",
        _WARNING,
        why="the optimizer has no new gradient to step with.",
        fix="call loss.backward() before optimizer.step()",
    ),
    Entry(
        "GRAD-CLEARED",
        _ERROR,
        why="the gradient was cleared between backward() and optimizer.step(), so the step does nothing.",
        fix="call zero_grad() before backward(), or after step()",
    ),
    Entry(
        "GRAD-LOSS-NOT-FINITE",
        _ERROR,
        why="a loss that is NaN or infinite says nothing of the parameters.",
        fix="look for a logarithm or root of a negative number, a division by zero, or an overflow",
    ),
    Entry(
        "GRAD-STALE",
        _WARNING,
        why="the optimizer was made from parameters that the model does not have any more.",
        fix="make the optimizer after the last change to the model (new layers, a copy, to(device)), from its "
        "parameters()",
    ),
    Entry(
        "GRAD-INTERMITTENT",
        _NOTE,
        why="the parameter got a gradient in one step and none in a later one.",
        fix="if its turns are meant (adversarial training), nothing; else look at what differs from that step on",
    ),
    Entry(
        "GRAD-NOT-ASKED",
        _NOTE,
        why="backward(inputs=...) or autograd.grad(...) computes the gradients of its inputs alone.",
        fix="add the parameter to the inputs, or leave inputs out",
        url="https://pytorch.org/docs/stable/generated/torch.Tensor.backward.html",
    ),
    Entry(
        "GRAD-NOT-FOLLOWED",
        _NOTE,
        why="torch.func takes gradients of its own, which the trace does not follow: nothing is said of the parameter.",
        fix="compare torch.func's gradients with zero yourself, or examine the same loss with backward()",
        url="https://pytorch.org/docs/stable/func.html",
    ),
    Entry(
        "GRAD-UNKNOWN",
        _ERROR,
        why="the parameter has no gradient though its value reaches the loss, and no operation that was seen cut it.",
        fix="look for a custom autograd.Function that returns None, a hook, or work in another thread",
    ),
    # A gradient that can't train.
    Entry(
        "GRAD-ZERO",
        _WARNING,
        why="the gradient exists and is zero in every element, in every step that was run.",
        fix="look for dead ReLUs, a multiplication by zero, saturated units, or an operation with a zero derivative "
        "(round, sign, floor)",
    ),
    Entry(
        "GRAD-NAN",
        _ERROR,
        why="the gradient holds NaN or Inf.",
        fix="look for a division by zero, log or sqrt of zero, or an overflow in low precision; "
        "torch.autograd.set_detect_anomaly(True) names the backward operation",
        url="https://pytorch.org/docs/stable/autograd.html#anomaly-detection",
    ),
    Entry(
        "GRAD-EXPLODING",
        _WARNING,
        why="the norm of the gradient is far above what a step can use.",
        fix="scale the loss or the initial weights, lower the learning rate, or clip with clip_grad_norm_",
    ),
    Entry(
        "GRAD-VANISHING",
        _WARNING,
        why="the norm of the gradient is so small that the parameter hardly moves.",
        fix="look at saturated activations and the depth before it; normalisation or residual paths help",
    ),
    # Modes and scenarios.
    Entry(
        "MODE-ELEMENT-0",
        _ERROR,
        why="the optimizer called a closure that runs backward() while no parameter requires grad: «element 0 of "
        "tensors does not require grad and does not have a grad_fn».",
        fix="evaluate candidates through SmartClosure, give step a second closure for the gradient (dual), or wrap the "
        "optimizer in minimal_patch",
    ),
    Entry(
        "MODE-SWALLOWED",
        _ERROR,
        why="the optimizer caught what the closure raised and went on, so a failure looks like a bad candidate.",
        fix="let the closure's exceptions pass through step(); treat only non-finite losses as bad",
    ),
    Entry(
        "MODE-REFUSED",
        _WARNING,
        why="the mode does not go with this optimizer or this closure, and said so by name.",
        fix="choose one of the modes that trained in this scenario",
    ),
    Entry(
        "MODE-RAISED",
        _ERROR,
        why="the optimizer's step raised.",
        fix="see the message and the place; where the closure is at fault, the optimizer is right to let it pass",
    ),
    Entry(
        "MODE-NOT-TRAINED",
        _ERROR,
        why="the optimizer ran, and the loss did not fall.",
        fix="give it more --steps and --evaluations; the smart mode takes one gradient a step, so an optimizer that "
        "wants a new one at each call (LBFGS) trains as-is or with minimal",
    ),
    Entry(
        "MODE-STATE-CHANGED",
        _ERROR,
        why="requires_grad, .grad, grad mode or hooks were not put back after the step.",
        fix="restore them in a finally block",
    ),
)
