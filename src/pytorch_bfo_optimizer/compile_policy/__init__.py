"""`CompilePolicy`: torch.compile as a switch that can be believed. It proves a full step first, and counts what runs.

`policy` has the settings, `attempt` applies them to a target; `snapshot` and `reach` put the step's state back,
`backend` and `trial` catch what fails, `audit` and `report` tell; `decision` weighs the compile against the training.
"""

from pytorch_bfo_optimizer.compile_policy.applied import CompiledStep
from pytorch_bfo_optimizer.compile_policy.calls import Fallback
from pytorch_bfo_optimizer.compile_policy.decision import Decision
from pytorch_bfo_optimizer.compile_policy.policy import CompilePolicy
from pytorch_bfo_optimizer.compile_policy.report import CompileReport

__all__ = ["CompilePolicy", "CompileReport", "CompiledStep", "Decision", "Fallback"]
