"""What the ranks of one colony say to each other: messages of a known size, with a deadline; and who is missing.

They go over a gloo group of their own, whatever the backend of the job: a message is a few hundred bytes, a lost peer
and a deadline come back as exceptions there (where NCCL's watchdog ends the process), and no collective of anybody
else can get in between.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from pytorch_bfo_optimizer.errors import DistributedError, RankFailedError, RankLostError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

TEXT_BYTES = 1024
"""Longest text that tells of an exception, in UTF-8."""

ROLL_CALL_SECONDS = 2.0
"""How long a rank waits for the others to answer once the group has broken."""


class Ranks:
    """The members of a process group; every method but `leave` and `close` is called by all of them alike.

    Args:
        group: the ranks that share one colony; None: all of the job.
        timeout: seconds that the first rank at a message waits for the last.

    Raises:
        DistributedError: there is no process group, or this rank is not in it.
        RankLostError: not every rank has come within the timeout.
    """

    def __init__(self, group: ProcessGroup | None, *, timeout: float) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise DistributedError(
                "there is no process group: call torch.distributed.init_process_group() first, in a program that "
                "torchrun starts"
            )
        self.rank: int = dist.get_rank(group)
        self.size: int = dist.get_world_size(group)
        if self.rank < 0:
            raise DistributedError("this process is not in the group: call distribute() on its members alone")
        self.timeout = timeout
        self._job = group
        self._ranks_in_job: list[int] = dist.get_process_group_ranks(group or dist.group.WORLD)
        failure = ""
        try:
            self._group: ProcessGroup | None = dist.new_group(
                None if group is None else self._ranks_in_job,
                timeout=timedelta(seconds=timeout),
                backend="gloo",
                use_local_synchronization=group is not None,
            )
        except RuntimeError as error:
            failure = str(error)
        if failure:
            raise RankLostError(
                f"not every rank has called distribute() within {timeout:g} s, or one is gone ({_short(failure)})",
                ranks=(),
            )
        nonce = torch.frombuffer(bytearray(os.urandom(8)), dtype=torch.uint8)
        self._key = f"pytorch_bfo_optimizer/{bytes(self.of_first(nonce).tolist()).hex()}"

    def gather(self, message: Tensor) -> Tensor:
        """The messages of all ranks (n, words) from this one's (words,), int64 on the CPU.

        Raises:
            RankLostError: a rank is gone, or late by more than the timeout. The group is closed then.
            RankFailedError: a rank has left with an exception.
        """
        table = torch.empty((self.size, message.shape[0]), dtype=torch.int64)
        self._call(lambda group: dist.all_gather(list(table.unbind(0)), message, group=group))
        return table

    def of_first(self, state: Tensor) -> Tensor:
        """What rank 0 passes (bytes,), uint8 on the CPU, on every rank."""
        sent = state.clone()
        self._call(lambda group: dist.broadcast(sent, src=self._ranks_in_job[0], group=group))
        return sent

    def mean_(self, values: Tensor) -> None:
        """Replace `values`, which have one shape and dtype on all ranks, by their mean: the same bits everywhere.

        Tensors on a device go over the job's own backend, without this group's deadline.
        """
        if values.device.type == "cpu":
            self._call(lambda group: dist.all_reduce(values, group=group))
        else:
            dist.all_reduce(values, group=self._job)
        values.div_(self.size)

    def failure_of(self, rank: int, error: Exception | None) -> RankFailedError:
        """What `rank` raised, told to all: the others pass None."""
        text = torch.zeros(TEXT_BYTES, dtype=torch.uint8)
        if error is not None:
            encoded = _told(error).encode()[:TEXT_BYTES]
            text[: len(encoded)] = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
        self._call(lambda group: dist.broadcast(text, src=self._ranks_in_job[rank], group=group))
        return _failed(rank, bytes(text.tolist()).rstrip(b"\0").decode(errors="replace"))

    def leave(self, error: BaseException) -> None:
        """Tell why this rank goes, and close the group: whoever waits for it learns of it at once."""
        if self._group is not None:
            self._ask_store(_told(error), seconds=0.0)
            self.close()

    def close(self) -> None:
        """Close the group; nothing is sent, and nobody is waited for."""
        group, self._group = self._group, None
        if group is not None and dist.is_initialized():
            with contextlib.suppress(ValueError):  # all groups of the job may be gone already
                dist.destroy_process_group(group)

    def _call(self, collective: Any) -> None:
        if self._group is None:
            raise DistributedError(
                "the ranks have parted, after an error or remove(): call distribute() again, on every rank"
            )
        started, failure = time.monotonic(), ""
        try:
            collective(self._group)
        except RuntimeError as error:  # gloo has one class for lost peers, closed connections and deadlines
            failure = str(error)
        if failure:  # outside of the except block, whose traceback would keep the connections open
            raise self._parted(failure, time.monotonic() - started)

    def _parted(self, failure: str, seconds: float) -> DistributedError:
        """Close the group, which wakes the others, and find out who does not answer."""
        self.close()
        answers = self._ask_store("", seconds=min(ROLL_CALL_SECONDS, self.timeout))
        waited = f"after {seconds:.1f} s (the limit is {self.timeout:g} s)"
        if answers is None:
            return RankLostError(
                f"rank {self.rank} has lost the others {waited}, and the store of the job, which is in rank 0 unless "
                f"torchrun keeps it, does not answer; parameters and colony are as before this step ({_short(failure)})"
            )
        for rank, text in sorted(answers.items()):
            if text:
                return _failed(rank, text)
        missing = tuple(rank for rank in range(self.size) if rank not in answers)
        if not missing:
            return RankLostError(
                f"the ranks have parted {waited}, and all of them live: one came too late; make the timeout longer "
                f"than the slowest share of a slot takes ({_short(failure)})"
            )
        names = ", ".join(str(rank) for rank in missing)
        return RankLostError(
            f"rank {names} of {self.size} is gone or hangs: no answer {waited}; parameters and colony are as before "
            f"this step ({_short(failure)})",
            ranks=missing,
        )

    def _ask_store(self, text: str, *, seconds: float) -> dict[int, str] | None:
        """Leave a word in the job's store, and collect what the ranks leave there within `seconds`.

        "" stands for "I am here". None: the store did not answer. It is asked in a thread, because it may be in the
        process that is gone, and then waits without an end.
        """
        find = getattr(dist.distributed_c10d, "_get_default_store", None)  # private; without it nobody is named
        keys = [f"{self._key}/{rank}" for rank in range(self.size)]
        found: list[dict[int, str]] = []

        def ask() -> None:
            with contextlib.suppress(RuntimeError):  # a store that is gone too
                store = find()  # type: ignore[misc]
                store.set(keys[self.rank], "here" + text)
                end = time.monotonic() + seconds
                while time.monotonic() < end and not store.check(keys):
                    time.sleep(0.02)
                if seconds:
                    present = [rank for rank, key in enumerate(keys) if store.check([key])]
                    found.append({rank: store.get(keys[rank]).decode().removeprefix("here") for rank in present})

        if find is not None:
            thread = threading.Thread(target=ask, daemon=True)
            thread.start()
            thread.join(seconds + 1.0)
        return found[0] if found else None


def _told(error: BaseException) -> str:
    return f"{type(error).__qualname__}\n{error}"


def _failed(rank: int, text: str) -> RankFailedError:
    kind, _, message = text.partition("\n")
    return RankFailedError(rank, kind, message)


def _short(failure: str) -> str:
    """What gloo says, without the place in its source and its advice."""
    return failure.rsplit("] ", 1)[-1].split(". This is", 1)[0].strip()
