"""The neurons of one layer by their slots: serial numbers, births, who is fading; and a running average of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Average:
    """Running averages, one a neuron: sum of the figures by sum of their weights, both decaying alike.

    A neuron that is new has no weight yet, so it needs no correction for its start. What is not finite is left out.
    """

    def __init__(self, width: int, like: Tensor) -> None:
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.sum_H = torch.zeros(width, dtype=dtype, device=like.device)
        self.weight_H = torch.zeros_like(self.sum_H)

    def add(self, figures_H: Tensor, weight: Tensor | float, *, decay: float) -> None:
        """Add the figures of a step, each being a sum over `weight` rows (or one figure of weight 1)."""
        finite_H = figures_H.isfinite()
        self.sum_H = decay * self.sum_H.to(figures_H.device) + torch.where(finite_H, figures_H, 0.0)
        self.weight_H = decay * self.weight_H.to(figures_H.device) + finite_H * weight

    def value(self) -> Tensor:
        """The averages (H,), NaN where nothing is known."""
        return self.sum_H / self.weight_H

    def forget(self, slots_K: Tensor) -> None:
        """Newborn neurons are in these slots."""
        slots_K = slots_K.to(self.sum_H.device)
        self.sum_H[slots_K], self.weight_H[slots_K] = 0.0, 0.0

    def resize(self, width: int) -> None:
        """Have room for so many; the first ones keep what is known of them."""
        for name in ("sum_H", "weight_H"):
            old_H = getattr(self, name)
            new_H = old_H.new_zeros(width)
            new_H[: len(old_H)] = old_H[:width]
            setattr(self, name, new_H)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of both sums."""
        return {"sum": self.sum_H.clone(), "weight": self.weight_H.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        self.sum_H = state["sum"].to(self.sum_H).clone()
        self.weight_H = state["weight"].to(self.weight_H).clone()


class Population:
    """Who is in each slot of a layer. A slot is a row of the producer; a serial number is never used again."""

    def __init__(self, width: int) -> None:
        self.first_width = width
        self.serials = list(range(width))
        self.born = [0] * width
        """The step after which each was born."""
        self.fading: dict[int, int] = {}
        """Slot -> shrinks that are left, of neurons on their way out."""
        self.owed = 0.0
        """Share of a neuron that a continuous schedule owes."""
        self._next = width

    def __len__(self) -> int:
        """How many slots there are."""
        return len(self.serials)

    def ages(self, step: int) -> Tensor:
        """Steps since birth (H,), int64."""
        return step - torch.tensor(self.born, dtype=torch.int64)

    def founders(self) -> Tensor:
        """Who was there from the start (H,), bool."""
        return torch.tensor(self.serials) < self.first_width

    def fading_mask(self) -> Tensor:
        """Who fades (H,), bool."""
        mask_H = torch.zeros(len(self), dtype=torch.bool)
        mask_H[list(self.fading)] = True
        return mask_H

    def named(self, slots: Sequence[int]) -> tuple[int, ...]:
        """Serial numbers of slots."""
        return tuple(self.serials[slot] for slot in slots)

    def bear(self, slots: Sequence[int], step: int) -> tuple[int, ...]:
        """Put newborn neurons into slots (those beyond the last one are new), and return their serial numbers."""
        newborn = tuple(range(self._next, self._next + len(slots)))
        self._next += len(slots)
        for slot, serial in zip(slots, newborn, strict=True):
            if slot == len(self):
                self.serials.append(serial)
                self.born.append(step)
            else:
                self.serials[slot], self.born[slot] = serial, step
        return newborn

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "first_width": self.first_width,
            "serials": list(self.serials),
            "born": list(self.born),
            "fading": [list(item) for item in self.fading.items()],
            "owed": self.owed,
            "next": self._next,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.first_width, self._next = state["first_width"], state["next"]
        self.serials, self.born, self.owed = list(state["serials"]), list(state["born"]), state["owed"]
        self.fading = dict(state["fading"])
