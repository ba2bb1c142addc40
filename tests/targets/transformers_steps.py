"""Trainers of a two-layer Llama on the text of Python's own documentation: one healthy, one cut, and some that fail."""

from __future__ import annotations

import os
import pydoc_data.topics
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"  # read at import

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from bfo_diag.cases.digits_mlp import digits

TOKENS = torch.tensor([byte for byte in "\n".join(pydoc_data.topics.topics.values()).encode() if byte < 128])


def rows(count: int = 16, length: int = 16):
    return [{"input_ids": row, "labels": row} for row in TOKENS[: count * length].view(count, length)]


def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=128, max_position_embeddings=64, **sizes))


def arguments(**others):
    found = {"max_steps": 8, "per_device_train_batch_size": 8, "use_cpu": True, "report_to": [], **others}
    return TrainingArguments(output_dir=tempfile.gettempdir(), save_strategy="no", disable_tqdm=True, **found)


class CutTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        hidden = model.model(inputs["input_ids"]).last_hidden_state
        logits = model.lm_head(hidden.detach())  # cut: compute_loss
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten())


healthy = Trainer(llama(), arguments(), train_dataset=rows())
healthy.teacher = nn.Linear(2, 2)  # of the Trainer, and no part of its step


def cut():
    return CutTrainer(llama(), arguments(gradient_accumulation_steps=2, bf16=True), train_dataset=rows())


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(64, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, images, labels):
        print("forward")  # break: print
        logits = self.head(torch.tanh(self.encoder(images)))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class WeighingTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        weights = inputs.pop("weights")
        return weights.mean() * model(**inputs)["loss"]


def classifier():
    images, labels = digits()
    rows = zip(images[:32], labels[:32], strict=True)
    data = [{"weights": torch.ones(()), "labels": label, "images": image} for image, label in rows]
    return WeighingTrainer(Classifier(), arguments(remove_unused_columns=False), train_dataset=data)


def without_data():
    return Trainer(llama(), arguments())


class EmptyTrainer(Trainer):
    def get_train_dataloader(self):
        return torch.utils.data.DataLoader([])


def empty_data():
    return EmptyTrainer(llama(), arguments())


class LosesItsDisk(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        raise OSError("the disk is gone")  # raises: dataset


lost = Trainer(llama(), arguments(), train_dataset=LosesItsDisk())
