"""What may be wrong with the gradients of a training over its steps."""

from bfo_diag.findings import Entry
from bfo_diag.records import Severity

ENTRIES = (
    Entry(
        "TELEMETRY-NON-FINITE",
        Severity.ERROR,
        why="a gradient with NaN or Inf in it makes every parameter that it is applied to NaN or Inf for good.",
        fix="look at what feeds that tensor: log, sqrt or a division near zero, an overflow of float16; "
        "torch.autograd.set_detect_anomaly(True) names the operation whose backward makes a NaN",
        url="https://pytorch.org/docs/stable/autograd.html#anomaly-detection",
    ),
    Entry(
        "TELEMETRY-SKIPPED",
        Severity.NOTE,
        why="an optimizer that did not step left the gradients of this step unused: a GradScaler does so while it "
        "looks for its scale.",
        fix="nothing, while it happens now and then; where it goes on, the loss itself is not finite",
    ),
    Entry(
        "TELEMETRY-EXPLODING",
        Severity.WARNING,
        why="the norm of the gradient is far above what a step can use.",
        fix="lower the learning rate, warm it up, scale the initial weights, or clip with clip_grad_norm_",
        url="https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html",
    ),
    Entry(
        "TELEMETRY-VANISHING",
        Severity.WARNING,
        why="the gradient shrinks from layer to layer on its way back, until nothing is left to train with.",
        fix="look at saturated activations (sigmoid, tanh) and at the depth; normalisation, residual paths or another "
        "initialisation keep it up",
    ),
    Entry(
        "TELEMETRY-DEAD",
        Severity.WARNING,
        why="the gradient is exactly zero in every sample: nothing of these parameters reaches the loss.",
        fix="look for a ReLU that is never above zero, a mask or a weight of zero, or rows that no index asks for",
    ),
    Entry(
        "TELEMETRY-NO-GRADIENT",
        Severity.WARNING,
        why="these parameters require a gradient and never got one.",
        fix="bfo-diag gradients on the same target names the operation that cuts each off",
    ),
)
