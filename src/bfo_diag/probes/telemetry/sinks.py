"""Where the samples go besides the run log: a TensorBoard folder, a Weights & Biases project."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from bfo_diag.errors import DiagError
from pytorch_bfo_optimizer import TelemetryError
from pytorch_bfo_optimizer.telemetry import GradientStats, Sink

PREFIX = "gradients"


class Sinks:
    """Gives samples to sinks, those of one label (a case, an optimizer) under one prefix."""

    def __init__(self, makers: list[Callable[[str], Sink]]) -> None:
        self._makers = makers
        self._made: dict[str, list[Sink]] = {}
        self._of(PREFIX)  # what is not installed, or can't be written, is to be refused before the steps

    def _of(self, prefix: str) -> list[Sink]:
        if prefix not in self._made:
            self._made[prefix] = [make(prefix) for make in self._makers]
        return self._made[prefix]

    def take(self, label: str, stats: GradientStats) -> None:
        """Give a sample to each sink."""
        for sink in self._of(f"{PREFIX}/{label}" if label else PREFIX):
            sink(stats)


@contextmanager
def opened(*, tensorboard: str | None, wandb: str | None) -> Iterator[Sinks]:
    """Open what is asked for, and close it at the end.

    Raises:
        DiagError: a framework that is not installed, a folder that can't be written, a project that is refused.
    """
    with ExitStack() as stack:
        makers: list[Callable[[str], Sink]] = []
        try:
            if tensorboard is not None:
                from pytorch_bfo_optimizer.adapters.tensorboard import TensorBoardSink

                makers.append(lambda prefix: stack.enter_context(TensorBoardSink(tensorboard, prefix)))
            if wandb is not None:
                from pytorch_bfo_optimizer.adapters.wandb import WandbSink, started

                run = stack.enter_context(started(wandb))
                makers.append(lambda prefix: WandbSink(run, prefix))
            sinks = Sinks(makers)
        except (ImportError, TelemetryError, OSError) as error:
            raise DiagError(str(error), mend="leave the option out: the run log has all of it") from error
        yield sinks
