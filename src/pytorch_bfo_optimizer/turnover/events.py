"""What happened to the neurons of a layer at one step: the record that every part of turnover writes and reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pytorch_bfo_optimizer.errors import TurnoverError

KINDS = ("death", "birth", "fade")


@dataclass(frozen=True)
class TurnoverEvent:
    """Neurons of one layer that died, were born, or began to fade at one step.

    A replacement is a death and a birth; growth is a birth alone, shrinking a death alone.

    Raises:
        TurnoverError: a kind that is not known, or parents or slots that are not one for each neuron.
    """

    step: int
    """Steps of the optimizer so far."""
    layer: str
    """The producer's name in `named_modules` of the model as it is without `torch.compile`."""
    kind: str
    """`death`, `birth`, or `fade` (a neuron begins to fade)."""
    neurons: tuple[int, ...]
    """Serial numbers, never given twice in a layer; its founders are 0 to H - 1."""
    parents: tuple[tuple[int, ...], ...]
    """For each neuron the serial numbers of its parents; `()` for none."""
    why: str
    """Selector and score, or initialiser, in words: "lowest weight norm, 0.013"."""
    width: int
    """Neurons in the layer after the event."""
    slots: tuple[int, ...]
    """The rows of the producer that they have, or had."""
    loss_before: float | None = None
    """What `measure` gave before the whole turnover of this step; None where nothing was measured."""
    loss_after: float | None = None
    """The same after it."""

    def __post_init__(self) -> None:
        """Check what a reader of the record relies on."""
        if self.kind not in KINDS:
            raise TurnoverError(f"kind is {self.kind!r}: it must be one of {', '.join(KINDS)}")
        for name in ("parents", "slots"):
            if len(getattr(self, name)) != len(self.neurons):
                raise TurnoverError(
                    f"{name} has {len(getattr(self, name))} entries for {len(self.neurons)} neurons of "
                    f"{self.layer!r}: it needs one for each, () for a neuron without parents"
                )

    def plain(self) -> dict[str, Any]:
        """Return the fields as JSON values: tuples become lists."""
        values = asdict(self)
        values["neurons"] = list(self.neurons)
        values["slots"] = list(self.slots)
        values["parents"] = [list(parents) for parents in self.parents]
        return values

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> TurnoverEvent:
        """Return the event that `plain` gave; fields that this version does not know are left out.

        Raises:
            TurnoverError: a field is missing.
        """
        known = {field.name: plain[field.name] for field in fields(cls) if field.name in plain}
        try:
            known["neurons"] = tuple(int(neuron) for neuron in known["neurons"])
            known["slots"] = tuple(int(slot) for slot in known["slots"])
            known["parents"] = tuple(tuple(int(parent) for parent in parents) for parents in known["parents"])
            return cls(**known)
        except (KeyError, TypeError, ValueError) as error:
            raise TurnoverError(f"this is no turnover event: {dict(plain)!r} ({error})") from error
