"""Where the study of a sweep is kept: a journal file below the workspace, or whatever an Optuna storage URL names.

A URL with a password is never put on record: it goes to the processes of a run by their environment.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bfo_diag.errors import DiagError, WorkspaceError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

VARIABLE = "BFO_DIAG_SWEEP_STORAGE"
"""An environment variable that holds the URL, so that no command line has to."""
JOURNAL = "journal"
"""What is on record in place of a URL where there is none."""
FOLDER = "sweeps"
"""Below the workspace: a folder for each study that somebody works on there."""
_HIDDEN = "***"
_LOGIN = re.compile(r"^([\w+.-]+://[^:@/?#]*):.*@", re.DOTALL)
_SECRET = re.compile(r"(?i)([?&][^=&#]*(?:pass|pwd|secret|token)[^=&#]*=)[^&#]*")
_ATTEMPTS = 4
_JOURNAL_FILE = "journal.log"
_LOCK_S = 30
"""How old a lock on the journal is when its owner counts as dead."""


def shown(url: str | None) -> str:
    """Return what may be put on record of a URL: all but passwords."""
    if url is None:
        return JOURNAL
    return _SECRET.sub(rf"\g<1>{_HIDDEN}", _LOGIN.sub(rf"\g<1>:{_HIDDEN}@", url))


def given(option: str | None) -> str | None:
    """Return the URL with its password, for what the record has of it.

    Raises:
        DiagError: it had a password, and the environment does not hold it.
    """
    if option is None:
        return None
    kept = os.environ.get(VARIABLE, option)
    url = kept if shown(kept) == option else option
    if _HIDDEN in url:
        raise DiagError(f"the password of {option} is not known here", mend=f"set {VARIABLE} to the whole URL")
    return url


@contextmanager
def errors_told(url: str | None) -> Iterator[None]:
    """Turn what goes wrong with the storage into an error that says so, without a password.

    Raises:
        DiagError: the database can't be reached, or refuses.
        WorkspaceError: the journal can't be read or written.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    mend = "see that it can be reached; bfo-diag sweep resume STUDY goes on from where the study is"
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        said = str(getattr(error, "orig", None) or error.__cause__ or error).strip() or type(error).__name__
        said = said.splitlines()[0]
        raise DiagError(f"the storage {shown(url)}: {said}", mend=mend) from None  # (its text may hold the password)
    except OSError as error:
        raise WorkspaceError(
            f"the study's file {error.filename or ''} can't be used: {error.strerror or error}",
            mend="free some space, or name another folder with --workspace DIR",
        ) from error


def opened(url: str | None, folder: Path) -> BaseStorage:
    """Return the storage that a URL names, or the journal in a study's folder; both are made where they are not there.

    Raises:
        DiagError: no such kind of storage, its driver is not installed, or it can't be reached.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return _journal(folder) if url is None else _database(url)


def exists(folder: Path) -> bool:
    """Whether there is a journal in a study's folder."""
    return (folder / _JOURNAL_FILE).is_file()


def _journal(folder: Path) -> BaseStorage:
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

    path = folder.absolute() / _JOURNAL_FILE

    class Lock(JournalFileOpenLock):
        """Optuna's lock file; whoever has it cuts off the line that a killed writer left unfinished.

        The line after an unfinished one would be lost, and each reader would stop there for good.
        """

        def acquire(self) -> bool:
            done = super().acquire()
            _cut_unfinished_line(path)
            return done

    folder.mkdir(parents=True, exist_ok=True)
    backend = JournalFileBackend(str(path), lock_obj=Lock(str(path), grace_period=_LOCK_S))
    try:
        return JournalStorage(backend)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DiagError(
            f"{path} is no journal of Optuna, or a damaged one: {error}", mend="take another --study NAME"
        ) from error


def _cut_unfinished_line(path: Path) -> None:
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _database(url: str) -> BaseStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    if "://" not in url:
        raise DiagError(
            f"--storage {shown(url)} is no URL",
            mend="write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE; without it, it is a journal file",
        )
    _refuse_unquoted(url)
    for attempt in range(_ATTEMPTS):
        try:
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except ImportError as error:
            raise DiagError(
                f"--storage {shown(url)}: its driver is not installed ({error.__cause__ or error})",
                mend="pip install 'psycopg[binary]' for postgresql://, psycopg2-binary for postgresql+psycopg2://",
            ) from None
        except ArgumentError as error:
            raise DiagError(f"--storage {shown(url)}: {error}", mend="sqlite:/// and postgresql:// are known") from None
        except ValueError:
            mend = "write USER:PASSWORD@HOST:PORT/DATABASE, the port in digits"
            raise DiagError(f"--storage {shown(url)} can't be read as a URL", mend=mend) from None
        except SQLAlchemyError:
            # (Of two that make the tables of one database at the same moment, one is told that they are there.)
            if attempt + 1 == _ATTEMPTS:
                raise
            time.sleep(0.1 * 2**attempt)
    raise AssertionError("unreachable")


def _refuse_unquoted(url: str) -> None:
    """Check that a password can't be taken for a host, which a driver would print.

    Raises:
        DiagError: it holds @ or : as they are.
    """
    authority = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
    password = authority.rpartition("@")[0].partition(":")[2]
    if "@" in password or ":" in password:
        raise DiagError(
            f"--storage {shown(url)}: its password holds @ or : as they are", mend="write %40 for @, and %3A for :"
        )
