"""What a run leaves behind after each epoch, so that another goes on from there to the very same end.

Plain values and tensors alone: `torch.load(weights_only=True)` reads it, and nothing in it is run.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bfo_diag import store
from bfo_diag.errors import DiagError, WorkspaceError
from bfo_diag.records import JSONValue
from bfo_diag.training.recipe import differences

FILE = "checkpoint.pt"
FORMAT = 2
_MEND = f"name the raw/{FILE} of a run"
_HOLDS: dict[str, Any] = {
    "recipe": dict,
    "code": str,
    "device": str,
    "torch": str,
    "fold": int,
    "epoch": int,
    "step": int,
    "best_epoch": int,
    "best_loss": float,
    "diverged": str,
    "val_losses": list,
    "loss_variance": (float, type(None)),
    "seconds": float,
    "model": dict,
    "optimizer": dict,
    "best": dict,
    "turnover": (dict, type(None)),
    "shift": (dict, type(None)),
    "order": torch.Tensor,
    "random": list,
    "told": list,
}
"""The keys of a checkpoint, and of what type (or one of which types) each is."""


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, or a model's weights, in one step: what was there stays whole until the new one is.

    Raises:
        WorkspaceError: it can't be written.
    """
    content = io.BytesIO()
    torch.save(dict(state), content)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content.getbuffer())
        partial.replace(path)
    except OSError as error:
        raise WorkspaceError(
            f"the checkpoint {path} can't be written: {error.strerror or error}",
            mend="free some space or name another folder with --workspace DIR; the last one is kept",
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def find(text: str, logs: Path | None) -> Path:
    """Return the checkpoint that --resume names: its file, the folder of a run, or a run id of the same workspace.

    Raises:
        DiagError: there is none.
    """
    folders = [Path(text), *([logs / text] if logs is not None else [])]
    if folders[0].is_file():
        return folders[0]
    run = next((folder for folder in folders if (folder / store.RUN_FILE).is_file()), None)
    if run is None:
        raise DiagError(f"--resume {text}: there is no such run", mend="name a folder under logs/, or its checkpoint")
    checkpoint = run / store.RAW_FOLDER / FILE
    if not checkpoint.is_file():
        raise DiagError(
            f"--resume {text}: the run holds no checkpoint, since none of its epochs ended",
            mend="begin anew, without --resume",
        )
    return checkpoint


def weights_file(fold: int) -> str:
    """Return the name of the file in which a fold, counted from 0, leaves its best weights."""
    return f"model-fold-{fold + 1}.pt"


def bring_weights(checkpoint: Path, raw: Path, *, folds: int) -> None:
    """Copy the weights of the folds that ended before a checkpoint was made, where they still lie beside it."""
    for name in map(weights_file, range(folds)):
        if (checkpoint.parent / name).is_file():
            shutil.copyfile(checkpoint.parent / name, raw / name)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        DiagError: it is none, or one of another version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DiagError(f"{path} can't be read as a checkpoint: {said}", mend=_MEND) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise DiagError(f"{path} is no checkpoint of format {FORMAT}: {found}", mend=_MEND)
    wrong = [key for key, kind in _HOLDS.items() if not isinstance(state.get(key), kind)]
    if wrong:
        raise DiagError(f"{path}: {wrong[0]} is not what a checkpoint holds there", mend="take another checkpoint")
    return state


def refuse_another(state: Mapping[str, Any], here: Mapping[str, JSONValue], path: Path) -> None:
    """Refuse to go on with something else than what was begun.

    Raises:
        DiagError: the recipe, the code of the model's factory, or the device differs; each difference is named.
    """
    found = list(differences(state["recipe"], here["recipe"]))
    if state["code"] != here["code"]:
        found.append("the source of model.factory is another")
    if state["device"] != here["device"]:
        found.append(f"device: {state['device']} there, {here['device']} here")
    if found:
        raise DiagError(
            f"{path} was made by another recipe: {'; '.join(found)}",
            mend="go on with the same recipe and options, or begin anew",
        )


def digest(source: Path | None) -> str:
    """Return a hash of a file's content; an empty text where there is none."""
    return hashlib.sha256(source.read_bytes()).hexdigest() if source is not None and source.is_file() else ""


def random_state(device: str) -> list[torch.Tensor]:
    """Return the state of torch's own random numbers, of the CPU and of the device where that is a GPU."""
    on_gpu = [torch.cuda.get_rng_state(device)] if device.startswith("cuda") else []
    return [torch.get_rng_state(), *on_gpu]


def set_random_state(states: list[torch.Tensor], device: str) -> None:
    """Put back what `random_state` returned."""
    torch.set_rng_state(states[0])
    if device.startswith("cuda"):
        torch.cuda.set_rng_state(states[1], device)
