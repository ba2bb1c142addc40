"""The files of a study, below the workspace: its spec, the factories of its models, and the recipe of each trial.

All lie in one folder, since a factory lies beside the recipe that names it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bfo_diag import targets
from bfo_diag.errors import DiagError
from bfo_diag.probes.sweep import arms
from bfo_diag.probes.sweep.spec import Spec
from bfo_diag.workspace import make_folder, write_whole


def texts(spec: Spec, tried: Iterable[arms.Arm]) -> dict[str, str]:
    """Return the text of the spec's file, and of those beside it that these arms make their models by.

    Raises:
        DiagError: one can't be read.
    """
    names = [spec.file.name, *dict.fromkeys(name for arm in tried for name in _factories(arm.recipe))]
    return {name: _text(spec.file.parent / name) for name in names}


def written(files: Mapping[str, str], folder: Path) -> None:
    """Write them, where they are not there.

    Raises:
        DiagError: a name that leads elsewhere; who made the study may be anybody.
    """
    make_folder(folder)
    for name, text in files.items():
        if Path(name).name != name or "\\" in name:
            raise DiagError(f"the study holds the file {name!r}, which lies elsewhere", mend="take another study")
        if not (folder / name).is_file() or _text(folder / name) != text:
            write_whole(folder / name, text)


def recipe(spec: Spec, arm: arms.Arm, seed: int, folder: Path) -> Path:
    """Write the recipe of a trial, and return its file: `bfo-diag run` trains the very same."""
    import tomli_w

    file = folder / f"arm-{arm.number:02d}-seed-{seed}.toml"
    write_whole(file, tomli_w.dumps(arms.recipe_tables(spec, arm, seed)))
    return file


def replay(file: Path, device: str) -> str:
    """Return the line that trains a recipe again."""
    return shlex.join(["bfo-diag", "run", str(file), f"--device={device}"])


def _factories(recipe: Mapping[str, Any]) -> Iterator[str]:
    factory = recipe.get("model", {}).get("factory")
    if isinstance(factory, str) and ":" in factory:
        where = targets.parse(factory)[0]
        if targets.is_file(where) and Path(where).name == where:  # (what lies elsewhere, the check refuses)
            yield where


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DiagError(f"{file} can't be read: {error}", mend="see that it is a file of text") from error
