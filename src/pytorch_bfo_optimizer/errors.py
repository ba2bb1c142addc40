"""Every error this package raises on its own account. A closure's exception is never among them: it passes through.

::

    BFOError(Exception)
    ├── HyperparameterError(ValueError)          a setting out of range, or groups that disagree
    ├── ParameterError(ValueError)               tensors that cannot be one vector
    │   ├── EmptyParametersError                 nothing to optimize, or a group of nothing
    │   ├── UnsupportedParameterError(TypeError) complex, integer, sparse, or overlapping memory
    │   ├── TiedParametersError                  one memory given twice
    │   └── DeviceMismatchError                  several devices, or not the one that was asked for
    ├── ObjectiveError(ValueError)               an objective that does not fit the parameters
    │   └── LossTypeError(TypeError)             a closure returned something that is no loss
    ├── ClosureRequiredError(TypeError)          step() without a closure
    ├── NonFiniteGenerationError(ArithmeticError) not one finite loss in a whole generation
    ├── NoGradientError(RuntimeError)            a gradient was wanted and there is none; says why
    ├── GradientModeUnsupportedError(TypeError)  this mode cannot drive this optimizer
    ├── CompileFailedError(RuntimeError)         torch.compile failed, where fallback="raise" was asked for
    ├── StateMismatchError(ValueError)           a state_dict of another colony
    ├── TurnoverError(ValueError)                neurons that can't be replaced as asked
    │   └── TurnoverRefusedError                 surgery that would change more than was asked
    ├── TelemetryError(ValueError)               gradients that can't be watched as asked
    │   └── UnsupportedGradientError(TypeError)  a gradient of a kind that can't be measured alone
    └── DistributedError(RuntimeError)           the ranks of a job cannot share a colony
        ├── RankFailedError                      another rank raised; carries its rank, type and message
        ├── RankLostError                        a rank is gone, or did not answer in time
        └── RanksDisagreeError                   the ranks hold different parameters, settings or colonies
"""

from __future__ import annotations


class BFOError(Exception):
    """Base of all errors of this package."""


class HyperparameterError(BFOError, ValueError):
    """A hyperparameter is out of range, or param groups disagree on one that the whole colony shares."""


class ParameterError(BFOError, ValueError):
    """The parameters cannot be handled as one vector."""


class EmptyParametersError(ParameterError):
    """There is nothing to optimize: no parameter, an empty group, or no element in any of them."""


class UnsupportedParameterError(ParameterError, TypeError):
    """A parameter is complex, integer, sparse, or overlaps itself in memory."""


class TiedParametersError(ParameterError):
    """The same tensor, or the same memory, is given more than once."""


class DeviceMismatchError(ParameterError):
    """Parameters on several devices, or on another device than `device=` or the generator."""


class ObjectiveError(BFOError, ValueError):
    """An objective does not fit: wrong shape of losses, or parameters that it does not know."""


class LossTypeError(ObjectiveError, TypeError):
    """A closure returned something other than one real number."""


class ClosureRequiredError(BFOError, TypeError):
    """`step()` was called without a closure after the state had been initialised."""


class NonFiniteGenerationError(BFOError, ArithmeticError):
    """Every loss evaluated in one generation was NaN or infinite."""


class NoGradientError(BFOError, RuntimeError):
    """A gradient was wanted and the closure gives none.

    `why` is the reason in words; `reason` one of `float-loss`, `no-graph`, `grad-disabled`, `unreached`,
    `non-finite`. `loss` is what the closure returned, so that its evaluation is not wasted.
    """

    def __init__(self, why: str, *, reason: str, loss: object = None) -> None:
        super().__init__(why)
        self.why = why
        self.reason = reason
        self.loss = loss

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with the keyword arguments, so that the error crosses a process boundary whole."""
        return (_rebuild_no_gradient, (self.why, self.reason))


def _rebuild_no_gradient(why: str, reason: str) -> NoGradientError:
    return NoGradientError(why, reason=reason)


class GradientModeUnsupportedError(BFOError, TypeError):
    """A gradient mode cannot drive this optimizer; the message says why."""


class CompileFailedError(BFOError, RuntimeError):
    """A target could not be compiled, or not proved; only `CompilePolicy(fallback="raise")` raises it.

    What torch, its backend or the step raised is the `__cause__`.
    """


class StateMismatchError(BFOError, ValueError):
    """A `state_dict` belongs to a colony of another size or to other parameters."""


class TurnoverError(BFOError, ValueError):
    """What was asked of neuron turnover does not fit: a name that is not known, a share out of range, another model."""


class TurnoverRefusedError(TurnoverError):
    """A layer can't be widened or narrowed without changing more than itself; the message names what stands there."""


class TelemetryError(BFOError, ValueError):
    """What was asked of the gradient telemetry or of a monitor does not fit: names, groups, or the order of calls."""


class UnsupportedGradientError(TelemetryError, TypeError):
    """A gradient is one process's part of a larger one, or of a layout or dtype that has no norm here."""


class DistributedError(BFOError, RuntimeError):
    """The ranks of a job cannot share a colony, or no longer."""


class RankFailedError(DistributedError):
    """Another rank raised an exception in this step: that rank has its own, the others have this.

    `rank` is its number in the group, `error_type` the name of its class, `error_message` what it said.
    """

    def __init__(self, rank: int, error_type: str, error_message: str) -> None:
        super().__init__(f"rank {rank} raised {error_type}: {error_message}")
        self.rank = rank
        self.error_type = error_type
        self.error_message = error_message

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with its three arguments."""
        return (type(self), (self.rank, self.error_type, self.error_message))


class RankLostError(DistributedError):
    """A rank died, hangs, or was too late; `ranks` are those that did not answer, where that could be found out."""

    def __init__(self, message: str, *, ranks: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.ranks = ranks


class RanksDisagreeError(DistributedError):
    """The ranks do not hold the same colony: other parameters, settings or random numbers on one of them."""
