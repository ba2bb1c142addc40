"""The options of torch._dynamo.config that are safe to try, and the breaks that each may mend. Needs no torch."""

from __future__ import annotations

SWITCHES = {
    "GB0124": "capture_scalar_outputs",
    "GB0123": "trace_autograd_ops",
    "GB0036": "capture_dynamic_output_shape_ops",
}
UNSPEC = "allow_unspec_int_on_nn_module"
"""What a guard on an integer of a module hints at: it mends no break but recompiles."""
