"""Bacterial Foraging optimizers for PyTorch, and ways to step an optimizer whose closure calls `.backward()`.

    from pytorch_bfo_optimizer import BFO, AdaptiveBFO, HybridBFO

`BFO` and `AdaptiveBFO` are gradient-free; `HybridBFO` takes one gradient a step. The algorithms are in `foraging`,
`covariance`, `momentum` and `differential`, as pure functions; `gradient_modes` holds the five modes. `distribute`
shares a colony among the ranks of torch.distributed. Around a closure: `accumulate`, `scaled`, `steady_step`; over the
steps: `BFOScheduler`, and `monitors`; for frameworks: `adapters`. For any training loop: `CompilePolicy`, a
torch.compile switch that can be believed, and `GradientCollector`, gradient telemetry. Needs torch alone.
"""

from pytorch_bfo_optimizer.accumulation import accumulate
from pytorch_bfo_optimizer.adaptive import AdaptiveBFO
from pytorch_bfo_optimizer.amp import scaled
from pytorch_bfo_optimizer.bfo import BFO
from pytorch_bfo_optimizer.compile_policy import CompilePolicy, CompileReport
from pytorch_bfo_optimizer.distributed import Distribution, distribute
from pytorch_bfo_optimizer.errors import (
    BFOError,
    ClosureRequiredError,
    CompileFailedError,
    DeviceMismatchError,
    DistributedError,
    EmptyParametersError,
    GradientModeUnsupportedError,
    HyperparameterError,
    LossTypeError,
    NoGradientError,
    NonFiniteGenerationError,
    ObjectiveError,
    ParameterError,
    RankFailedError,
    RankLostError,
    RanksDisagreeError,
    StateMismatchError,
    TelemetryError,
    TiedParametersError,
    TurnoverError,
    TurnoverRefusedError,
    UnsupportedGradientError,
    UnsupportedParameterError,
)
from pytorch_bfo_optimizer.gradient_modes import (
    MODES,
    ConfigMode,
    DualClosure,
    GradientConfig,
    GradientDecision,
    GradientMode,
    minimal_patch,
)
from pytorch_bfo_optimizer.hybrid import HybridBFO
from pytorch_bfo_optimizer.objective import BatchedObjective, FunctionObjective, ModelObjective
from pytorch_bfo_optimizer.schedulers import BFOScheduler, CosineSchedule, LinearSchedule
from pytorch_bfo_optimizer.smart_closure import ClosureGradient, SmartClosure
from pytorch_bfo_optimizer.state import MinimizeResult, StepRecord
from pytorch_bfo_optimizer.steady import SteadyClosure, steady_step
from pytorch_bfo_optimizer.telemetry import GradientCollector, GradientStats, TelemetryConfig

__all__ = [
    "BFO",
    "MODES",
    "AdaptiveBFO",
    "BFOError",
    "BFOScheduler",
    "BatchedObjective",
    "ClosureGradient",
    "ClosureRequiredError",
    "CompileFailedError",
    "CompilePolicy",
    "CompileReport",
    "ConfigMode",
    "CosineSchedule",
    "DeviceMismatchError",
    "DistributedError",
    "Distribution",
    "DualClosure",
    "EmptyParametersError",
    "FunctionObjective",
    "GradientCollector",
    "GradientConfig",
    "GradientDecision",
    "GradientMode",
    "GradientModeUnsupportedError",
    "GradientStats",
    "HybridBFO",
    "HyperparameterError",
    "LinearSchedule",
    "LossTypeError",
    "MinimizeResult",
    "ModelObjective",
    "NoGradientError",
    "NonFiniteGenerationError",
    "ObjectiveError",
    "ParameterError",
    "RankFailedError",
    "RankLostError",
    "RanksDisagreeError",
    "SmartClosure",
    "StateMismatchError",
    "SteadyClosure",
    "StepRecord",
    "TelemetryConfig",
    "TelemetryError",
    "TiedParametersError",
    "TurnoverError",
    "TurnoverRefusedError",
    "UnsupportedGradientError",
    "UnsupportedParameterError",
    "accumulate",
    "distribute",
    "minimal_patch",
    "scaled",
    "steady_step",
]
