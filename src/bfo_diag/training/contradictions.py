"""What a recipe may not say together, though each of its keys is right. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator

from bfo_diag.training.recipe import COLONIES, Recipe


def contradictions(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield what does not go together: the fault and its mend."""
    data, model = recipe.data, recipe.model
    if (model.name is None) == (model.factory is None):
        what = "both model.name and model.factory are given" if model.name else "neither model.name nor model.factory"
        yield what, "give one of the two"
    fits = {"mlp": "digits", "char-transformer": "text"}
    if model.name is not None and fits[model.name] != data.name:
        right = next(name for name, learned in fits.items() if learned == data.name)
        yield f"the model {model.name} does not go with {data.name}", f'model.name = "{right}", or a model.factory'
    shaped = [name for name in ("width", "depth", "dropout") if getattr(model, name) is not None]
    if model.factory is not None and shaped:
        yield f"model.{shaped[0]} does not go with model.factory", "let the factory decide it, and leave it out"
    if model.name == "char-transformer" and model.width is not None and model.width % 2:
        yield f"model.width is {model.width}", "the char-transformer has two heads: an even number"
    yield from _of_data(recipe)
    yield from _of_optimizer(recipe)
    yield from _of_shift(recipe)


def _of_data(recipe: Recipe) -> Iterator[tuple[str, str]]:
    data = recipe.data
    if data.name != "text" and data.context is not None:
        yield f"data.context does not go with {data.name}", "leave it out"
    if recipe.training.folds > 1 and data.validation is not None:
        yield "data.validation does not go with training.folds", "each of K folds holds back 1/K: leave it out"


def _of_optimizer(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if recipe.training.gradient_mode is not None and recipe.optimizer.name != "HybridBFO":
        fault = f"training.gradient_mode does not go with {recipe.optimizer.name}"
        yield fault, "leave it out: of the optimizers of a recipe HybridBFO alone takes a gradient in several ways"
    preset, grow_to = recipe.turnover.preset, recipe.turnover.grow_to
    if preset != "none" and recipe.optimizer.name in COLONIES:
        fault = f"turnover.preset = {preset!r} does not go with {recipe.optimizer.name}"
        yield fault, "it searches a space that stays as it is: take a class of torch.optim, or no turnover"
    if grow_to is not None and preset not in ("none", "growth"):
        yield f"turnover.grow_to does not go with turnover.preset = {preset!r}", 'leave it out, or preset = "growth"'


def _of_shift(recipe: Recipe) -> Iterator[tuple[str, str]]:
    shift, training = recipe.shift, recipe.training
    if shift.kind is None:
        if shift.epochs:
            yield "shift.epochs is given, and shift.kind is not", 'give one: kind = "permute"'
        return
    if not shift.epochs:
        yield "shift.epochs is missing", "the epochs on A, on B, and on A again: epochs = [2, 2, 2]"
    if shift.kind == "labels" and recipe.data.name == "text":
        yield "shift.kind = 'labels' does not go with text", 'the characters are its labels: kind = "permute"'
    if training.patience is not None:
        yield "training.patience does not go with shift", "leave it out: each phase has its epochs"
    if training.folds > 1:
        yield "training.folds does not go with shift", "leave it out: one part is held back, as data.validation says"
