"""Takes samples of the gradients: `collect` queues the work on the devices, `materialize` waits for it, once.

What the numbers mean is in `stats`, how they come about in `norms`, which gradients can be measured in `samples`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from pytorch_bfo_optimizer.errors import TelemetryError
from pytorch_bfo_optimizer.telemetry import names, norms, samples, stats
from pytorch_bfo_optimizer.telemetry.names import Groups
from pytorch_bfo_optimizer.telemetry.samples import Sample
from pytorch_bfo_optimizer.telemetry.stats import GradientStats, GroupStats, TelemetryConfig
from pytorch_bfo_optimizer.telemetry.watch import GradientWatch, Sink


class GradientCollector:
    """Measures the gradients of some parameters.

    ::

        collector = GradientCollector(model.named_parameters())
        loss.backward()
        pending = collector.collect()  # after backward, and after GradScaler.unscale_; no host sync
        optimizer.step()
        print(pending.materialize().health)  # one host sync

    `named_parameters` gives pairs of name and parameter, and is read once. Device and dtype are those of each gradient
    at the time. `_orig_mod.`, which `torch.compile(model)` puts into names, is taken out. `groups` names groups whose
    norms are given apart; two of them are compared (`GradientStats.ratio`).

    With gradient accumulation call `collect` on the step that counts, before `optimizer.step()`; `watch` does so.

    Raises:
        TelemetryError: no pairs, a name twice, or a group with a name that no parameter has.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        groups: Groups | None = None,
        config: TelemetryConfig | None = None,
    ) -> None:
        self.config = TelemetryConfig() if config is None else config
        self._parameters = names.named(named_parameters)
        self.groups = names.members(tuple(self._parameters), groups)
        """The names of the parameters in each group."""
        self._collected = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in their order."""
        return tuple(self._parameters)

    @torch.no_grad()
    def collect(self, step: int | None = None, *, scale: Tensor | float | None = None) -> PendingStats:
        """Queue the measurement of the gradients as they are now; nothing waits for a device.

        `step` is kept with the result. `scale` is what the gradients are too large by: that of a `GradScaler` whose
        `unscale_` has not divided them. The gradients stay alive until the result is materialized: do that before the
        next backward pass. (A sparse gradient that is not coalesced does wait, on a GPU.)

        Raises:
            UnsupportedGradientError: naming the parameter whose gradient is of a kind that can't be measured alone.
            TelemetryError: `scale` is no positive number.
        """
        taken: list[Sample] = []
        missing: list[str] = []
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            if gradient is not None:
                taken.append(samples.take(name, parameter, gradient))
            elif parameter.requires_grad:
                missing.append(name)
        count_zeros = self.config.zero_every > 0 and self._collected % self.config.zero_every == 0
        self._collected += 1
        if scale is not None and not isinstance(scale, Tensor):
            scale = torch.tensor(_checked(scale), dtype=torch.float64)
        queued = norms.queue([sample.elements for sample in taken], count_zeros=count_zeros, beside=scale)
        return PendingStats(self, taken, tuple(missing), queued, step=step)

    def watch(self, optimizer: torch.optim.Optimizer, sinks: Iterable[Sink], *, every: int = 1) -> GradientWatch:
        """Measure at the first of every `every` steps of `optimizer`, and give what was measured to each sink.

        Raises:
            TelemetryError: `every` is no integer of at least 1.
        """
        return GradientWatch(self.collect, optimizer, sinks, every=every)


class PendingStats:
    """A sample whose numbers are still on their way."""

    def __init__(
        self,
        collector: GradientCollector,
        taken: list[Sample],
        missing: tuple[str, ...],
        queued: norms.Queued,
        *,
        step: int | None,
    ) -> None:
        self._config, self._groups = collector.config, collector.groups
        self._samples, self._missing, self._queued = taken, missing, queued
        self._step = step
        self._result: GradientStats | None = None

    @property
    def total_norm(self) -> Tensor:
        """The norm over all gradients, 0-dim and float64, on their device, without a host sync.

        (As `torch.nn.utils.get_total_norm` it is infinite where a sum of squares is too large for float32 on a CPU;
        `GradientStats.total_norm` is not.)
        """
        return self._queued.total()

    @torch.no_grad()
    def clip_(self, max_norm: float) -> Tensor:
        """Scale the gradients down to a total norm of `max_norm`, as `clip_grad_norm_`, and return what it was.

        The norm is the one that was collected: no second pass over the gradients, and no host sync. (Nothing can be
        looked at again afterwards: tensors with NaN or Inf are named in `GradientStats.not_counted`.)

        Raises:
            TelemetryError: the sample is materialized, its gradients are scaled or have changed since.
        """
        if self._result is not None:
            raise TelemetryError(
                "the gradients of this sample have been let go: clip before materialize, or give its total_norm to "
                "torch.nn.utils.clip_grads_with_norm_"
            )
        if self._queued.beside:
            raise TelemetryError("the gradients of this sample are still scaled: unscale_ them before collect")
        for sample in self._samples:
            if sample.parameter.grad is not sample.gradient or not sample.unchanged:
                raise TelemetryError(f"{sample.name}: its gradient is not what was collected: clip right after collect")
        total = self.total_norm
        # Multiplied in float32 as torch does, so that float32 gradients take the fused kernel.
        wide = torch.float64 if any(s.elements.dtype is torch.float64 for s in self._samples) else torch.float32
        torch.nn.utils.clip_grads_with_norm_([s.parameter for s in self._samples], max_norm, total.to(wide))
        return total

    @torch.no_grad()
    def materialize(self) -> GradientStats:
        """Wait for the numbers, once, and return what they say; the gradients are let go.

        Only where a norm is not finite, or so small that squares may have been lost, it is looked at again: for exact
        counts of NaN and Inf, or for the norm that float32 could not hold. That is a second wait. A tensor that was
        changed since (clipped, set to zero) can't be looked at: then it is in `GradientStats.not_counted`.

        Raises:
            TelemetryError: the `scale` of `collect` is no positive number.
        """
        if self._result is None:
            self._result = self._measured()
            self._samples = []
        return self._result

    def _measured(self) -> GradientStats:
        found, nonzero, scale = self._queued.read()
        nan, inf, not_counted = self._looked_at_again(found, nonzero)
        if scale is not None:
            found = [norm / _checked(scale) for norm in found]
        called = [sample.name for sample in self._samples]
        sizes = [sample.gradient.numel() for sample in self._samples]
        elements = sum(sizes)
        zeros = None
        if nonzero is not None:
            zeros = tuple(1 - count / size if size else 0.0 for count, size in zip(nonzero, sizes, strict=True))
        # (A tensor without elements has a norm of zero, and neither vanishes nor is healthy.)
        judged = [norm for norm, size in zip(found, sizes, strict=True) if size]
        finite = [norm for norm in judged if math.isfinite(norm)]
        vanishing = sum(norm < self._config.vanishing_norm for norm in finite)
        exploding = sum(norm > self._config.exploding_norm for norm in finite)
        groups = self._of_groups(called, found, sizes) if self._groups else {}
        return GradientStats(
            step=self._step,
            names=tuple(called),
            norms=tuple(found),
            zero_shares=zeros,
            total_norm=norms.norm_of(found) if judged else None,
            min_norm=min(finite, default=None),
            max_norm=max(finite, default=None),
            mean_norm=math.fsum(finite) / len(finite) if finite else None,
            vanishing=vanishing,
            exploding=exploding,
            zero_share=None if nonzero is None or not elements else 1 - sum(nonzero) / elements,
            nan_counts=nan,
            inf_counts=inf,
            not_counted=not_counted,
            missing=self._missing,
            elements=elements,
            health=stats.health_of(len(judged), vanishing, exploding, finite=len(finite) == len(judged)),
            status=stats.status_of(len(judged), vanishing, exploding, finite=len(finite) == len(judged)),
            groups=groups,
            ratio=stats.ratio_of(groups),
        )

    def _looked_at_again(
        self, found: list[float], nonzero: list[int] | None
    ) -> tuple[dict[str, int], dict[str, int], tuple[str, ...]]:
        """Mend in `found` what float32 lost; return the counts of NaN and Inf, and the tensors that have changed."""
        broken: list[int] = []
        small: list[int] = []
        for index, (sample, norm) in enumerate(zip(self._samples, found, strict=True)):
            if not math.isfinite(norm):
                broken.append(index)
            elif norms.may_have_underflowed(norm, sample.elements) and sample.unchanged:
                small += [] if nonzero is not None and nonzero[index] == 0 else [index]
        counted = [index for index in broken if self._samples[index].unchanged]
        looks, mended = norms.closer_look(
            [self._samples[index].elements for index in counted], [self._samples[index].elements for index in small]
        )
        nan: dict[str, int] = {}
        inf: dict[str, int] = {}
        explained = set()
        for index, look in zip(counted, looks, strict=True):
            name = self._samples[index].name
            if look.explains(found[index], self._samples[index].elements):
                explained.add(index)
                nan.update({name: look.nan} if look.nan else {})
                inf.update({name: look.inf} if look.inf else {})
                if not look.nan and not look.inf:  # the sum of squares was too large, and no element is
                    found[index] = look.norm
        for index, norm in zip(small, mended, strict=True):
            found[index] = norm
        return nan, inf, tuple(self._samples[index].name for index in broken if index not in explained)

    def _of_groups(self, called: list[str], measured_norms: list[float], sizes: list[int]) -> dict[str, GroupStats]:
        measured = dict(zip(called, zip(measured_norms, sizes, strict=True), strict=True))
        found = {}
        for group, members in self._groups.items():
            inside = [measured[name] for name in members if name in measured]
            norm = norms.norm_of([norm for norm, _ in inside])
            found[group] = GroupStats(norm, tensors=len(inside), elements=sum(size for _, size in inside))
        return found


def _checked(scale: float) -> float:
    """Return a scale of gradients.

    Raises:
        TelemetryError: it is no positive number.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise TelemetryError(f"scale is {scale!r}: it must be a positive number, such as GradScaler.get_scale()")
    return float(scale)
