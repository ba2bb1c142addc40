"""The errors that bfo-diag itself raises, each with the exit code that the command line ends with.

    DiagError                  exit 2: wrong usage
    |-- TargetLoadError        exit 2: the target can't be found, imported or called as it is
    |   |-- CaseError          exit 2: a Case was made of what can't be run (a TypeError too)
    |-- WorkspaceError         exit 2: the workspace can't be written (permissions, full disk)
    |-- RecordError            exit 2: a log does not hold what its schema says

What a *target* raises is none of these: it is recorded as an observation (`attempt.py`) and ends with exit
code 3.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns to its caller."""

    CLEAN = 0
    FINDING = 1
    USAGE = 2
    TARGET_RAISED = 3
    NOTHING_MEASURED = 4
    DEFECT = 5
    INTERRUPTED = 130  # the shell's number for a process ended by Ctrl-C


class DiagError(Exception):
    """Something that the person at the terminal can mend.

    `message` says what was wrong and where, `mend` what to do about it, `detail` (a traceback of the user's own
    code, say) is shown below both as it is.
    """

    exit_code = ExitCode.USAGE

    def __init__(self, message: str, *, mend: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend
        self.detail = detail


class TargetLoadError(DiagError):
    """TARGET names nothing that can be examined."""


class CaseError(TargetLoadError, TypeError):
    """A `Case` was made of what can't be run."""


class WorkspaceError(DiagError):
    """A folder or file of the workspace could not be written or read."""


class RecordError(DiagError):
    """A record is truncated, corrupt or of a schema that this version does not read."""
