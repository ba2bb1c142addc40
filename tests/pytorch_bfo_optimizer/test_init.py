from __future__ import annotations

import subprocess
import sys

import pytorch_bfo_optimizer

PUBLIC = """
MODES BFO AdaptiveBFO BFOError BatchedObjective ClosureGradient ClosureRequiredError ConfigMode DeviceMismatchError
DualClosure EmptyParametersError FunctionObjective GradientConfig GradientDecision GradientMode
GradientModeUnsupportedError HybridBFO HyperparameterError LossTypeError MinimizeResult ModelObjective NoGradientError
NonFiniteGenerationError ObjectiveError ParameterError SmartClosure StateMismatchError StepRecord TiedParametersError
UnsupportedParameterError minimal_patch GradientCollector GradientStats TelemetryConfig TelemetryError
UnsupportedGradientError CompilePolicy CompileReport CompileFailedError distribute Distribution DistributedError
RankFailedError RankLostError RanksDisagreeError accumulate scaled steady_step SteadyClosure BFOScheduler LinearSchedule
CosineSchedule TurnoverError TurnoverRefusedError
""".split()


def test_the_public_names_are_these() -> None:
    assert sorted(pytorch_bfo_optimizer.__all__) == sorted(PUBLIC)
    assert all(hasattr(pytorch_bfo_optimizer, name) for name in PUBLIC)


def test_importing_needs_torch_alone_and_leaves_its_state() -> None:
    program = """
import sys, torch
before = torch.get_rng_state(), torch.is_grad_enabled(), torch.get_default_dtype(), set(sys.modules)
import pytorch_bfo_optimizer
assert torch.equal(before[0], torch.get_rng_state()) and torch.is_grad_enabled() == before[1]
assert torch.get_default_dtype() == before[2]
heavy = {'bfo_diag', 'typer', 'rich', 'jinja2', 'sklearn', 'scipy', 'torch._inductor'}
heavy |= {'lightning', 'transformers', 'tensorboard', 'wandb', 'matplotlib', 'optuna'}
heavy &= set(sys.modules) - before[3]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
