"""Death and birth of neurons while a model trains: who dies, who is born, when, and a record of it.

`manager` conducts at the steps of an optimizer; `selectors` and `initialisers` hold one strategy a file, `presets` puts
them together, `schedule` says when. `layers` finds what may be changed, `surgery` alone changes it, `young` has newborn
neurons begin with a step of their own. `events` is the record, `lineage` what it says of descent.
"""

from pytorch_bfo_optimizer.turnover.events import TurnoverEvent
from pytorch_bfo_optimizer.turnover.initialisers import Initialiser
from pytorch_bfo_optimizer.turnover.lineage import Lineage
from pytorch_bfo_optimizer.turnover.manager import TurnoverManager
from pytorch_bfo_optimizer.turnover.presets import PRESETS
from pytorch_bfo_optimizer.turnover.schedule import Continuous, Every, Never, Once, Schedule
from pytorch_bfo_optimizer.turnover.selectors import Selector

__all__ = [
    "PRESETS",
    "Continuous",
    "Every",
    "Initialiser",
    "Lineage",
    "Never",
    "Once",
    "Schedule",
    "Selector",
    "TurnoverEvent",
    "TurnoverManager",
]
