"""Where a study is: its storage, and its folder in this workspace."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bfo_diag.errors import DiagError
from bfo_diag.probes.sweep import storage
from bfo_diag.probes.sweep.study import Study, find

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True)
class Place:
    """A study's name, the URL of its storage (None for a journal in its folder), and its folder in this workspace."""

    name: str
    url: str | None
    folder: Path

    @classmethod
    def found(cls, workspace: Path, name: str, url: str | None) -> Place:
        """Return where a study is, by the root of the workspace and the URL as it is on record.

        Raises:
            DiagError: no folder can have this name, or the password of the URL is not known.
        """
        if _NAME.fullmatch(name) is None:
            mend = "use up to 64 letters, digits, dots, dashes and underscores"
            raise DiagError(f"--study {name!r} can't name a study", mend=mend)
        return cls(name, storage.given(url), workspace / storage.FOLDER / name)

    @property
    def recipes(self) -> Path:
        """The folder of the spec, the factories of its models, and the recipes of its trials."""
        return self.folder / "recipes"

    def there(self) -> Study:
        """Return the study, read anew.

        Raises:
            DiagError: there is none.
        """
        known = self.url is not None or storage.exists(self.folder)
        found = find(storage.opened(self.url, self.folder), self.name) if known else None
        begun = found is not None or (known and self.url is None)
        if begun and (found is None or not found.filled):
            raise DiagError(
                f"the study {self.name} was begun, and has no arms so far",
                mend="bfo-diag sweep run SPEC does that",
            )
        if found is None:
            raise DiagError(
                f"there is no study {self.name} in {storage.shown(self.url) if self.url else self.folder.parent}",
                mend=_near(self) or "bfo-diag sweep run SPEC begins one",
            )
        return found


def _near(place: Place) -> str:
    others = sorted(folder.name for folder in place.folder.parent.glob("*") if storage.exists(folder))
    return f"there are {', '.join(others)}" if others and place.url is None else ""
