"""Whose machine wrote a record: its users, hosts and homes, and the secrets of its environment.

How these are found in a text is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bfo_diag.records import JSONValue
from bfo_diag.redact.secret_names import name_strength
from bfo_diag.redact.secret_values import PATH_VALUE

_USER_VARIABLES = ("USER", "LOGNAME", "SUDO_USER", "USERNAME", "LNAME", "PBS_O_LOGNAME", "SLURM_JOB_USER")


@dataclass(frozen=True)
class Identity:
    """Whose machine wrote the record."""

    users: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    homes: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JSONValue]:
        """Return the names. The secrets are never written."""
        return {"users": list(self.users), "hosts": list(self.hosts), "homes": list(self.homes)}

    @classmethod
    def from_json(cls, data: Mapping[str, JSONValue]) -> Identity:
        """Read what `to_json` wrote; what is not a list of names counts as none."""

        def names(field: str) -> tuple[str, ...]:
            value = data.get(field)
            return tuple(name for name in value if isinstance(name, str)) if isinstance(value, list) else ()

        return cls(users=names("users"), hosts=names("hosts"), homes=names("homes"))

    @classmethod
    def here(cls) -> Identity:
        """Return who and what this process runs as."""
        users: list[str] = []
        with contextlib.suppress(KeyError, OSError, ImportError):  # a container's number without a name
            users.append(getpass.getuser())
        users += [os.environ.get(name, "") for name in _USER_VARIABLES]
        hosts: list[str] = []
        for host in (platform.node(), os.environ.get("HOSTNAME", ""), os.environ.get("COMPUTERNAME", "")):
            hosts += [host, host.split(".")[0]]
        homes = [os.environ.get("HOME", ""), os.environ.get("USERPROFILE", "")]
        with contextlib.suppress(RuntimeError, OSError):  # no home is known
            homes.append(str(Path.home()))
        return cls(_distinct(users), _distinct(hosts), _distinct(homes), _environment_secrets(os.environ))


def _distinct(names: list[str]) -> tuple[str, ...]:
    """Return the names that say something, each once, in their order."""
    return tuple(name for name in dict.fromkeys(names) if name)


def _environment_secrets(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of variables whose name looks secret."""
    return _distinct(
        [
            value
            for name, value in environment.items()
            if name_strength(name) and len(value) >= 8 and not PATH_VALUE.match(value) and not value.isalpha()
        ]
    )
