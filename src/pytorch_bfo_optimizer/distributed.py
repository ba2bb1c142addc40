"""`distribute`: one colony on all ranks of a job, which share the work of evaluating it, or bring data of their own.

Every rank draws the same noise and makes the same moves, so that positions are never sent. Who evaluates what is in
`sharing`, averages are in `averaging`, messages, deadlines and who is missing in `ranks`; the algorithm does not know
that it is shared.
"""

from __future__ import annotations

import contextlib
import logging
import math
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from pytorch_bfo_optimizer.averaging import AveragedEvaluator, averaged_gradient
from pytorch_bfo_optimizer.errors import DistributedError, RankFailedError, RanksDisagreeError
from pytorch_bfo_optimizer.objective import Closure, Evaluator, PiecewiseEvaluator
from pytorch_bfo_optimizer.ranks import Ranks
from pytorch_bfo_optimizer.sharing import SharedEvaluator, checksum_of
from pytorch_bfo_optimizer.shell import ColonyOptimizer
from pytorch_bfo_optimizer.smart_closure import ClosureGradient

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

logger = logging.getLogger("pytorch_bfo_optimizer")

UNIT_SIZE = 8
"""Rows of a batched objective that are evaluated together where `chunk_size` is no number."""

HEADER_WORDS = 2
"""The first message of a slot begins with: whether this rank failed, and a checksum of what it evaluates."""

Data = Literal["same", "own"]
"""Whether the closures of all ranks give the same loss at the same parameters, or each has a batch of its own."""

USUAL_SHARE = 16
"""Losses in the first message of a slot where the colony's size is not settled beforehand."""


def distribute(
    optimizer: ColonyOptimizer[Any, Any],
    group: ProcessGroup | None = None,
    *,
    data: Data = "same",
    timeout: float = 300.0,
) -> Distribution:
    """Let one colony live on all ranks of `group`; call it on each of them, between two steps.

    From here on every rank calls `step` alike, with a closure of its own. All go on from rank 0's random state; after
    each step parameters, colony and counts are equal on all ranks, to the bit. Ranks whose colonies differ are found
    out before a loss is used. `DistributedDataParallel` modules are called without collectives of their own.

    `data="same"`: the closures give the same loss at the same parameters, and the population is shared. Each rank
    evaluates its share of each slot, and all learn all losses: those of one process, to the bit. A closure is called
    for one member at a time. A batched objective gets `chunk_size` rows at a time, or `UNIT_SIZE` where that is no
    number: the same rows together on any number of ranks, and in one process if `chunk_size` is that number.
    Collectives in a closure (`SyncBatchNorm`, `all_reduce`) would wait for ranks that are elsewhere.

    `data="own"`: each rank has a batch of its own, and the data are shared (data parallel). Every rank evaluates every
    candidate; its loss and its gradient are the means over the ranks, each counting alike, however large its batch.

    Args:
        optimizer: `BFO`, `AdaptiveBFO` or `HybridBFO`, before its first step or between any two.
        group: the ranks, of whatever backend; None for all of the job.
        data: see above.
        timeout: seconds that the first rank of a slot waits for the last; longer than a share of a slot takes.

    Returns: a handle. Its `remove()`, or the end of it as a context, lets each rank go on alone.

    Raises:
        DistributedError: no process group, or the optimizer is shared already.
        RanksDisagreeError: parameters, settings or colonies differ between ranks; says which, and where.
        RankLostError: a rank did not come in time.

    From here on `step` also raises, with parameters and colony as before that step:
        RankFailedError: another rank raised an exception; that rank has its own.
        RankLostError: a rank is gone, hangs, or came later than the timeout.
        RanksDisagreeError: the colonies have drifted apart.
    After the last two, and after an interrupt, the ranks have parted: call `distribute` again.
    """
    if optimizer._shard is not None:
        raise DistributedError(f"this {type(optimizer).__name__} is shared already: remove() its handle first")
    if data not in get_args(Data):
        raise DistributedError(f"data is {data!r}: it must be one of {', '.join(map(repr, get_args(Data)))}")
    if not 0 < timeout < math.inf:
        raise DistributedError(f"timeout is {timeout!r}: it must be a number of seconds above 0")
    ranks = Ranks(group, timeout=timeout)
    try:
        _refuse_differences(ranks, optimizer, data)
        optimizer.generator.set_state(ranks.of_first(optimizer.generator.get_state()))
    except BaseException:
        ranks.close()
        raise
    return Distribution(optimizer, ranks, data)


class Distribution:
    """Handle of a shared optimizer: which rank this is, and the way back."""

    def __init__(self, optimizer: ColonyOptimizer[Any, Any], ranks: Ranks, data: Data) -> None:
        self._optimizer, self._ranks, self.data = optimizer, ranks, data
        self._told = False
        self._population_size, self._unit_size = _sizes(optimizer)
        self._advance: Callable[[Closure], float] = optimizer._advance
        optimizer._advance, optimizer._shard = self._watched_advance, self  # type: ignore[method-assign]

    @property
    def rank(self) -> int:
        """Number of this process in the group."""
        return self._ranks.rank

    @property
    def world_size(self) -> int:
        """Processes that share the colony."""
        return self._ranks.size

    def remove(self) -> None:
        """Let this process go on alone with its copy of the colony. Waits for nobody; can be called twice."""
        self._ranks.close()
        if self._optimizer._shard is self:
            self._optimizer._shard = None
            del self._optimizer._advance

    def __enter__(self) -> Distribution:
        """Nothing more than `distribute` did."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Remove the handle."""
        self.remove()

    # --- called by the optimizer ---

    def __call__(self, evaluator: Evaluator) -> Evaluator:
        """The evaluator of one generation, its work shared or its losses averaged."""
        if not isinstance(evaluator, PiecewiseEvaluator):
            raise DistributedError(f"{type(evaluator).__name__} cannot be shared: it does not work in units")
        if self.data == "own":
            return AveragedEvaluator(evaluator, self)
        if evaluator.unit_size is None:
            evaluator.unit_size = UNIT_SIZE
        return SharedEvaluator(evaluator, self)

    def gradient(self, take: Callable[[], ClosureGradient]) -> ClosureGradient:
        """What `take` finds on this rank; with data of its own on each, the mean of what it finds on all."""
        return averaged_gradient(take, self) if self.data == "own" else take()

    def _watched_advance(self, closure: Closure) -> float:
        """The optimizer's own, but what ends it on this rank is told to the others."""
        self._told, made = False, self._optimizer.generation
        try:
            return self._advance(closure)
        except BaseException as error:
            if self._optimizer.generation == made:  # else the step is made, on all ranks: it was a hook that raised
                self.failed(error)
            raise

    def failed(self, error: BaseException) -> None:
        """See to it that no other rank waits for this one, whose step ends with `error`."""
        if not isinstance(error, Exception):
            self._ranks.leave(error)
        elif not self._told:  # the others are on their way to the next exchange, and learn of it there
            self._told = True
            with contextlib.suppress(DistributedError):  # they are gone: the error at hand is the one to raise
                self._swap(torch.zeros(self.capacity, dtype=torch.int64), 0, error)

    # --- called by the evaluator ---

    @property
    def capacity(self) -> int:
        """Losses in the first message of a slot: those of a share, and one that came with the gradient.

        It never changes, so that first messages have one size whatever step or slot each rank is in; only ranks that
        are about to evaluate the same send a second one, with what did not fit.
        """
        if not self._population_size:
            return USUAL_SHARE + 1
        if self.data == "own":
            return self._population_size
        units = math.ceil(self._population_size / self._unit_size)
        rows = math.ceil(units / self.world_size) * self._unit_size
        return max(rows, math.ceil(self._population_size / self.world_size)) + 1

    def exchange(self, losses: Tensor, largest: int, *, checksum: int, error: Exception | None) -> Tensor:
        """All ranks' losses (n, at least `largest`), float64 on the CPU, for this rank's; or for its error.

        Raises:
            Exception: `error` on this rank.
            RankFailedError, RankLostError, RanksDisagreeError: see `distribute`.
        """
        self._told = True  # whatever is raised in here, the others raise too, or are gone
        words = torch.zeros(max(largest, self.capacity), dtype=torch.int64)
        words[: len(losses)] = losses.view(torch.int64)
        try:
            table, failure = self._swap(words[: self.capacity], checksum, error)
        except DistributedError as lost:
            if error is None:
                raise
            raise error from lost
        if error is not None:
            raise error
        if failure is not None:
            raise failure
        self._refuse_drift(table)
        found = table[:, HEADER_WORDS:]
        if largest > self.capacity:
            found = torch.cat([found, self._ranks.gather(words[self.capacity :])], dim=1)
        self._told = False
        return found.view(torch.float64)

    def mean_(self, values: Tensor) -> None:
        """Replace `values` by their mean over the ranks; after an `exchange`, which found that all are here."""
        self._ranks.mean_(values)

    def _swap(self, words: Tensor, checksum: int, error: Exception | None) -> tuple[Tensor, RankFailedError | None]:
        """The first message of each rank (n, words), and what the first of those that failed raised."""
        table = self._ranks.gather(torch.cat([torch.tensor((int(error is not None), checksum)), words]))
        failed = table[:, 0].nonzero().flatten().tolist()
        return table, self._ranks.failure_of(failed[0], error) if failed else None

    def _refuse_drift(self, table: Tensor) -> None:
        others = _others(table[:, 1])
        if others:
            self._ranks.close()
            raise RanksDisagreeError(
                f"rank {others} is about to evaluate other positions than rank 0, in generation "
                f"{self._optimizer.generation + 1}: the colonies have drifted apart. Was step() called on some ranks "
                "alone? Were parameters, settings or the generator changed on one, or is the gradient not the same on "
                "all? Load one state_dict on every rank, and call distribute() again"
            )


def _others(column: Tensor) -> str:
    """The ranks whose number is not rank 0's, in words."""
    return ", ".join(str(rank) for rank in (column != column[0]).nonzero().flatten().tolist())


def _sizes(optimizer: ColonyOptimizer[Any, Any]) -> tuple[int, int]:
    """Members of the colony, 0 where it finds its size itself; and rows of a batched objective in a unit."""
    hyper = optimizer._hyperparameters()[0]
    return hyper.population_size, hyper.chunk_size if isinstance(hyper.chunk_size, int) else UNIT_SIZE


def _refuse_differences(ranks: Ranks, optimizer: ColonyOptimizer[Any, Any], data: Data) -> None:
    """Raise unless all ranks begin with the same.

    Raises:
        RanksDisagreeError: naming the first thing that differs, and the ranks.
    """
    vector, settings = optimizer.vector, (type(optimizer).__qualname__, data, optimizer._hyperparameters())
    begins = {
        "other settings, an optimizer of another class or another value of data": zlib.crc32(repr(settings).encode()),
        "another number of coordinates": vector.dimension,
        "other parameters": checksum_of(vector.read().unsqueeze(0)),
        "another number of generations behind it": optimizer.generation,
        "another colony": _state_checksum(optimizer) if optimizer.initialised else 0,
        "a generator on another kind of device": optimizer.generator.get_state().numel(),
    }
    table = ranks.gather(torch.tensor(list(begins.values()), dtype=torch.int64))
    for what, column in zip(begins, table.unbind(1), strict=True):
        others = _others(column)
        if others:
            raise RanksDisagreeError(
                f"rank {others} begins with {what} than rank 0: build model and optimizer alike on every rank (the "
                "same seed, one checkpoint, or a broadcast of the parameters) before distribute()"
            )


def _state_checksum(optimizer: ColonyOptimizer[Any, Any]) -> int:
    """63 bits of all that the optimizer keeps but its random state, which rank 0 hands out."""
    total = 0
    for kept in optimizer.state_dict()["state"].values():
        for name, value in kept.items():
            if isinstance(value, Tensor) and name != "rng_state":
                total += checksum_of(value.flatten().unsqueeze(0))
            elif name != "rng_state":
                total += zlib.crc32(f"{name} {value!r}".encode())
    return total % 2**63
