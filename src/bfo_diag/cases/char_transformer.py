"""A small causal character transformer on the English text in Python's own `pydoc_data.topics`."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from bfo_diag.cases.workload import Workload, adam_case
from bfo_diag.records import Case

NAME = "char-transformer"
_WIDTH = 32
_CONTEXT = 32
_BATCH = 8
_PARTS = 2


@lru_cache(maxsize=1)
def characters() -> tuple[Tensor, int]:
    """Return the text as int64 codes (N,) and the size of its alphabet."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[key] for key in sorted(topics))
    alphabet = {character: code for code, character in enumerate(sorted(set(text)))}
    return torch.tensor([alphabet[character] for character in text]), len(alphabet)


class CharTransformer(nn.Module):
    """Embedding, one pre-norm block of causal attention and MLP, and a linear head."""

    def __init__(self, alphabet: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(alphabet, _WIDTH)
        self.position = nn.Parameter(torch.randn(_CONTEXT, _WIDTH) * 0.02)
        self.norm_attention = nn.LayerNorm(_WIDTH)
        self.qkv = nn.Linear(_WIDTH, 3 * _WIDTH)
        self.mix = nn.Linear(_WIDTH, _WIDTH)
        self.norm_mlp = nn.LayerNorm(_WIDTH)
        self.mlp = nn.Sequential(nn.Linear(_WIDTH, 2 * _WIDTH), nn.GELU(), nn.Linear(2 * _WIDTH, _WIDTH))
        self.head = nn.Linear(_WIDTH, alphabet)

    def features(self, codes_BT: Tensor) -> Tensor:
        """Return (B, T, width) features of (B, T) codes."""
        x_BTW = self.embed(codes_BT) + self.position[: codes_BT.shape[1]]
        query, key, value = (
            part.unflatten(-1, (2, _WIDTH // 2)).transpose(1, 2)
            for part in self.qkv(self.norm_attention(x_BTW)).chunk(3, dim=-1)
        )
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x_BTW = x_BTW + self.mix(attended.transpose(1, 2).flatten(-2))
        out: Tensor = x_BTW + self.mlp(self.norm_mlp(x_BTW))
        return out

    def forward(self, codes_BT: Tensor) -> Tensor:
        """Return (B, T, alphabet) logits of (B, T) codes."""
        logits: Tensor = self.head(self.features(codes_BT))
        return logits


def workload(*, device: str = "cpu", seed: int = 0) -> Workload:
    """Return the transformer with everything below its head as the trunk, on 8 pieces of text in two halves."""
    codes, alphabet = characters()
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, len(codes) - _CONTEXT - 1, (_BATCH,), generator=generator)
    pieces = torch.stack([codes[start : start + _CONTEXT + 1] for start in starts.tolist()]).to(device)
    halves = pieces.chunk(_PARTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CharTransformer(alphabet).to(device)
    names = dict(model.named_parameters())

    def head(features: Tensor, part: int) -> Tensor:
        return nn.functional.cross_entropy(model.head(features).flatten(0, 1), halves[part][:, 1:].flatten())

    return Workload(
        name=NAME,
        trunk_parameters={name: p for name, p in names.items() if not name.startswith("head.")},
        head_parameters={name: p for name, p in names.items() if name.startswith("head.")},
        trunk=lambda part: model.features(halves[part][:, :-1]),
        head=head,
        parts=_PARTS,
        model=model,
    )


def train_step(device: str = "cpu") -> Case:
    """Return an ordinary Adam training step of the transformer."""
    return adam_case(workload(device=device), lr=3e-3)
