"""What may be wrong with a sweep, and with what one would like to conclude from it."""

from bfo_diag.findings import Entry
from bfo_diag.records import Severity

ENTRIES = (
    Entry(
        "SWEEP-CONTROL-FAILED",
        Severity.ERROR,
        why="the control has no figure at any seed: no arm can be compared with it, and no difference is shown.",
        fix="replay it and mend the recipe, which every arm begins from",
    ),
    Entry(
        "SWEEP-TRIAL-FAILED",
        Severity.WARNING,
        why="an arm that failed at a seed has no figure there: it stands below the complete arms, whatever it did at "
        "the other seeds, for to leave out the seeds at which it fails would flatter it.",
        fix="replay it; a factor's levels may not go together, or a loss diverged",
    ),
    Entry(
        "SWEEP-ARMS-IDENTICAL",
        Severity.WARNING,
        why="the losses and the weights of these arms are the same, bit for bit, at every seed: what they differ in "
        "was not used, and they are one arm under several names.",
        fix="see whether another factor switches it off (the share of neurons where none is turned over, a clip norm "
        "that is never reached), or whether it is read at all",
    ),
    Entry(
        "SWEEP-INCOMPLETE",
        Severity.WARNING,
        why="arms are not at their end: the order may change with them, and which are missing may be no accident.",
        fix="bfo-diag sweep resume",
    ),
    Entry(
        "SWEEP-ALL-TIE",
        Severity.NOTE,
        why="no arm differs from the control beyond what seeds do to it: the order of the means is noise, or the "
        "differences are smaller than so few seeds can show.",
        fix="keep the control, or try the arms that matter with more seeds",
    ),
)
