"""The models that a recipe names: an MLP, a small character transformer, or what a factory returns."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from bfo_diag import targets
from bfo_diag.attempt import call_through
from bfo_diag.errors import DiagError, TargetLoadError
from bfo_diag.training.data import Samples
from bfo_diag.training.recipe import Model

WIDTH, DEPTH, DROPOUT = 64, 1, 0.0
_HEADS = 2


def build(model: Model, samples: Samples, folder: Path) -> nn.Module:
    """Return a fresh model; its first weights come from torch's own random numbers.

    Raises:
        DiagError: the factory can't be found, or did not return a module; else whatever the factory raises.
    """
    if model.factory is not None:
        return _made_by(model.factory, folder)
    width = WIDTH if model.width is None else model.width
    depth = DEPTH if model.depth is None else model.depth
    dropout = DROPOUT if model.dropout is None else model.dropout
    if model.name == "mlp":
        return _mlp(samples, width, depth, dropout)
    return CharTransformer(samples, width, depth, dropout)


def factory_source(model: Model, folder: Path) -> Path | None:
    """Return the file of the factory, None where it is named by its module.

    Raises:
        DiagError: it does not lie beside the recipe.
    """
    if model.factory is None:
        return None
    where, _ = targets.parse(model.factory)
    if not targets.is_file(where):
        return None
    if Path(where).name != where:
        raise DiagError(
            f"model.factory = {model.factory!r} lies in another folder than the recipe",
            mend="put the file beside the recipe, or name a module that can be imported: package.module:name",
        )
    return folder / where


def _made_by(factory: str, folder: Path) -> nn.Module:
    source = factory_source(Model(factory=factory), folder)
    text = factory if source is None else f"{source}:{targets.parse(factory)[1]}"
    made, _ = targets.imported(text)
    if not isinstance(made, nn.Module):
        if not callable(made):
            raise TargetLoadError(f"{factory} is {type(made).__name__}, and can't be called", mend="name a factory")
        made = call_through(made, (), {})
        if isinstance(made, nn.Module):
            return made
    raise TargetLoadError(
        f"model.factory = {factory!r}: it is, or returned, {type(made).__name__}",
        mend="name a function without arguments, or a class, that makes a fresh nn.Module for each fold",
    )


def _mlp(samples: Samples, width: int, depth: int, dropout: float) -> nn.Module:
    layers: list[nn.Module] = []
    wide = samples.inputs.shape[1]
    for _ in range(depth):
        layers += [nn.Linear(wide, width), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
        wide = width
    return nn.Sequential(*layers, nn.Linear(wide, samples.classes))


class _Block(nn.Module):
    """Pre-norm causal attention and MLP, each added to what comes in: (B, T, W) to (B, T, W)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTW: Tensor) -> Tensor:
        heads = (_HEADS, x_BTW.shape[-1] // _HEADS)
        query, key, value = (
            part.unflatten(-1, heads).transpose(1, 2) for part in self.qkv(self.norm_attention(x_BTW)).chunk(3, dim=-1)
        )
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x_BTW = x_BTW + self.dropout(self.mix(attended.transpose(1, 2).flatten(-2)))
        out_BTW: Tensor = x_BTW + self.dropout(self.mlp(self.norm_mlp(x_BTW)))
        return out_BTW


class CharTransformer(nn.Module):
    """Embedding, blocks, and a linear head: (B, T) codes to (B, T, C) logits of the next character at each place."""

    def __init__(self, samples: Samples, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(samples.classes, width)
        self.position = nn.Parameter(torch.randn(samples.inputs.shape[1], width) * 0.02)
        self.blocks = nn.Sequential(*(_Block(width, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, samples.classes)

    def forward(self, codes_BT: Tensor) -> Tensor:
        """Return the logits."""
        logits_BTC: Tensor = self.head(self.norm(self.blocks(self.embed(codes_BT) + self.position)))
        return logits_BTC
