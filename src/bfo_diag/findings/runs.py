"""How a run ended, whatever was examined."""

from bfo_diag.findings import Entry
from bfo_diag.records import Severity

ENTRIES = (
    Entry(
        "TARGET-RAISED",
        Severity.ERROR,
        why="The target's own code raised an exception; what was seen before is in the log.",
        fix="the exception is the target's own: see its traceback",
    ),
    Entry(
        "TARGET-REFUSED",
        Severity.ERROR,
        why="The target could not be loaded as it was given, or an option does not go with it.",
        fix="see the message: it names the mend",
    ),
    Entry(
        "TARGET-DIED",
        Severity.ERROR,
        why="The process that ran the target ended without saying so: a signal, os._exit, or no memory left.",
        fix="read raw/stderr.txt of the run; run fewer steps or smaller inputs if memory ran out",
    ),
    Entry(
        "TARGET-TIMED-OUT",
        Severity.ERROR,
        why="The target ran longer than --timeout; what was seen until then is judged.",
        fix="raise --timeout, or ask for less work",
    ),
    Entry(
        "RUN-INTERRUPTED",
        Severity.ERROR,
        why="The run was stopped from the keyboard; what was seen until then is judged.",
        fix="run it again",
    ),
    Entry(
        "DIAG-DEFECT",
        Severity.ERROR,
        why="Code of bfo-diag raised, not the target's.",
        fix="report it with the run's folder; the traceback is in raw/stderr.txt",
    ),
    Entry(
        "LOG-DAMAGED",
        Severity.WARNING,
        why="A line of the log was cut short or is no valid record; the others are judged.",
        fix="run it again if what is missing matters",
    ),
)
