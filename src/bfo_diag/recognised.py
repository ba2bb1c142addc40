"""From an exception on record to the code of a fault with a name. One row is one fact; reads the record alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bfo_diag.records import JSONValue


@dataclass(frozen=True)
class Sign:
    """How an exception shows which fault it is: the name of its class, a pattern in its text and in its traceback."""

    code: str
    type: str
    message: str
    through: str = ""

    def fits(self, type_name: str, message: str, traceback: str) -> bool:
        """Whether it is this one."""
        return (
            type_name == self.type
            and re.search(self.message, message) is not None
            and re.search(self.through, traceback) is not None
        )


# The first that fits is taken: what is told by its traceback stands before what is told by its text alone.
SIGNS = (
    Sign("AMP-SCALER-CLOSURE", "RuntimeError", r"Closure use is not currently supported if GradScaler"),
    Sign("AMP-SCALER-CLOSURE", "ClosureRequiredError", "", r"grad_scaler\.py"),
    Sign("AMP-SCALER-CLOSURE", "TypeError", r"step\(\) missing 1 required .*'closure'", r"grad_scaler\.py"),
    Sign("OPTIMIZER-NEEDS-CLOSURE", "ClosureRequiredError", ""),
    Sign("OPTIMIZER-NEEDS-CLOSURE", "TypeError", r"step\(\) missing 1 required positional argument: 'closure'"),
    # Lightning's manual optimization hands a bare step() a closure that does nothing.
    Sign(
        "OPTIMIZER-NEEDS-CLOSURE", "LossTypeError", r"returned None", r"optimization[/\\]manual\.py[\s\S]*\.step\(\)\n"
    ),
    Sign("AMP-NO-GRADIENT", "AssertionError", r"No inf checks were recorded (for this optimizer|prior to update)"),
    Sign("AMP-NO-GRADIENT", "AssertionError", r"Attempted \w+ but _scale is None"),
    Sign("AMP-UPDATE-FORGOTTEN", "RuntimeError", r"has already been called (on this optimizer )?since the last update"),
    Sign("AMP-HALF-WEIGHTS", "ValueError", r"Attempting to unscale FP16 gradients"),
    Sign(
        "LIGHTNING-TRAINER-ARGUMENT", "TypeError", r"Trainer\.__init__\(\) got an unexpected .*automatic_optimization"
    ),
    Sign("LIGHTNING-MANUAL-ONLY", "MisconfigurationException", r"is not supported for manual optimization"),
    Sign("LIGHTNING-TWO-PACKAGES", "TypeError", r"`model` must be a `LightningModule`"),
    Sign("LIGHTNING-TWO-PACKAGES", "ValueError", r"^Expected a parent$"),  # (a LightningDataModule)
    Sign("SCHEDULER-MOMENTUM", "ValueError", r"must support momentum or beta1 with `cycle_momentum`"),
    Sign("SCHEDULER-MOMENTUM", "KeyError", r"ParamScheduler[\s\S]*(\b|\\t)mom\b"),  # fastai's; its text is quoted
    Sign("SCHEDULER-MOMENTUM", "HyperparameterError", r"has no momentum \('mom'\)"),  # our adapter's for fastai
    Sign("SCHEDULER-TOO-MANY-STEPS", "ValueError", r"Tried to step \d+ times\. The (specified )?(total )?number of"),
    Sign("SCHEDULER-LAST-EPOCH", "KeyError", r"param 'initial_lr' is not specified"),
    Sign("SHARDED-PARAMETERS", "UnsupportedParameterError", r"is one process's part of"),
    Sign("DDP-UNFINISHED-REDUCTION", "RuntimeError", r"Expected to have finished reduction in the prior iteration"),
    Sign("BACKWARD-NO-GRAPH", "RuntimeError", r"does not require grad and does not have a grad_fn"),
    Sign("BACKWARD-TWICE", "RuntimeError", r"Trying to backward through the graph a second time"),
    Sign("BACKWARD-INPLACE", "RuntimeError", r"needed for gradient computation has been modified by an inplace"),
    Sign(
        "LEAF-INPLACE", "RuntimeError", r"a (view of a )?leaf Variable that requires grad is being used in an in-place"
    ),
    Sign("LOSS-NOT-SCALAR", "RuntimeError", r"grad can be implicitly created only for scalar outputs"),
    Sign("LABEL-OUT-OF-RANGE", "IndexError", r"Target -?\d+ is out of bounds"),
    Sign("EMBEDDING-OUT-OF-RANGE", "IndexError", r"index out of range in self"),
    Sign("LABEL-DTYPE", "RuntimeError", r"expected (target dtype to be|scalar type) Long"),
    Sign("DATA-FLOAT64", "RuntimeError", r"must have the same dtype, but got Double and Float"),
    Sign(
        "DATA-FLOAT64", "RuntimeError", r"Input type \(.*[dD]ouble.*\) and \w+ type \(.*[fF]loat.*\) should be the same"
    ),
    Sign("BATCHNORM-ONE-VALUE", "ValueError", r"Expected more than 1 value per channel when training"),
    Sign("OPTIMIZER-NOT-A-LEAF", "ValueError", r"can't optimize a non-leaf Tensor"),
    Sign("OPTIMIZER-NO-PARAMETERS", "ValueError", r"optimizer got an empty parameter list"),
    Sign("OPTIMIZER-NO-PARAMETERS", "EmptyParametersError", r"no parameters were given"),
    Sign(
        "OPTIMIZER-STATE-MISMATCH", "ValueError", r"loaded state dict (contains a parameter group|has a different numb)"
    ),
    Sign("STATE-DICT-PREFIX", "RuntimeError", r"Error\(s\) in loading state_dict[\s\S]*\"(_orig_mod|module)\."),
)


_IMPORT_FAILED = re.compile(r"importing .+? failed: (?P<type>\w+): (?P<message>[\s\S]*)")
"""How `targets` words what a target raised while it was imported."""


def recognise(raised: Mapping[str, JSONValue]) -> str | None:
    """Return the code for the values of a `raised` observation; None where nobody has given it a name."""
    return _code_of(str(raised["type"]), str(raised["message"]), str(raised.get("traceback") or ""))


def recognise_refusal(refused: Mapping[str, JSONValue]) -> str | None:
    """Return the code for the values of a `refused` observation, where the target raised while it was imported."""
    told = _IMPORT_FAILED.match(str(refused["message"]))
    return None if told is None else _code_of(told["type"], told["message"], str(refused.get("detail") or ""))


def _code_of(type_name: str, message: str, traceback: str) -> str | None:
    return next((sign.code for sign in SIGNS if sign.fits(type_name, message, traceback)), None)
