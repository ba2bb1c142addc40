"""Versions, devices and flags that a result may depend on."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

from bfo_diag.records import JSONValue

_DISTRIBUTIONS = ("bfo-diag", "torch", "numpy", "scikit-learn", "lightning", "transformers", "accelerate", "fastai")
_FLAG_PREFIXES = ("TORCH", "CUDA_", "OMP_", "MKL_", "PYTORCH_", "NCCL_", "TRITON_")


def versions() -> dict[str, JSONValue]:
    """Return what can be told without importing torch."""
    found: dict[str, str] = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "executable": sys.executable,
        "versions": found,
        "flags": {key: value for key, value in sorted(os.environ.items()) if key.startswith(_FLAG_PREFIXES)},
    }


def devices() -> dict[str, JSONValue]:
    """Return what only torch can tell; imports it."""
    import torch

    gpus: list[JSONValue] = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            gpus.append({"name": properties.name, "memory_mib": properties.total_memory // 2**20})
    return {
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "gpus": gpus,
        "threads": torch.get_num_threads(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
    }
