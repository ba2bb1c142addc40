"""What may be wrong with a training."""

from bfo_diag.findings import Entry
from bfo_diag.records import Severity

ENTRIES = (
    Entry(
        "RUN-DIVERGED",
        Severity.ERROR,
        why="a loss is NaN or infinite: the weights are lost from there on, and the fold ended with the best before.",
        fix="lower optimizer.lr, or set training.clip_norm; telemetry.every = 1 shows whose gradient goes first",
    ),
    Entry(
        "RUN-GRADIENT-NON-FINITE",
        Severity.ERROR,
        why="a gradient holds NaN or Inf, and the optimizer writes it into the weights (clipping does not mend it).",
        fix="bfo-diag gradients on the step shows the operation; lower optimizer.lr if the norm grew before",
    ),
    Entry(
        "RUN-COMPILE-NOT-APPLIED",
        Severity.WARNING,
        why="the recipe asks for compile, and the training ran eagerly.",
        fix="bfo-diag compile on the step shows why; --compile off trains without asking",
    ),
    Entry(
        "RUN-COMPILE-PARTIAL",
        Severity.NOTE,
        why="compile was applied, and a part of the work runs outside of its graphs.",
        fix="bfo-diag compile on the step lists the places; compile.fullgraph = true makes each an error",
    ),
    Entry(
        "RUN-TURNOVER-NEVER-FIRED",
        Severity.WARNING,
        why="the recipe asks for neuron turnover, and no neuron died or was born: this is a training without it.",
        fix="lower turnover.every below the steps of a fold, or raise turnover.fraction or training.epochs",
    ),
)
