"""Safe reading and writing of weight files, and checks that their weights match a network."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from torch.overrides import TorchFunctionMode

from models.errors import UserError

StateDict = Mapping[str, torch.Tensor]
NESTED = ("state_dict", "model_state_dict", "model", "backbone")  # keys of the state dict in other projects' files
SHOWN = 3  # number of keys in a message


def load_file(path: Path | str, advice: str = "Download it again.") -> Any:
    """The content of a weight file, on the CPU. Only tensors and plain values are read; no code in the file is run.

    Raises UserError if the file is missing, truncated or not a weight file, or contains other objects. ``advice``: last
    sentence of the message about a damaged file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such weight file. `python download_vec2face_weights.py` downloads the released ones; "
            "small demo weights are in weights/demo/."
        )
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # in released checkpoints
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():  # the file refers to a function or class
            raise UserError(f"{path}: refused, because it contains code and not only weights.") from error
        raise UserError(f"{path}: not a weight file, or damaged. {advice}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, IndexError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not a weight file, or truncated. {advice}") from error


def state_dict_of(content: Any, path: Path | str) -> dict[str, torch.Tensor]:
    """The state dict in the content of a weight file, without ``module.`` prefixes and in float32.

    ``path`` is named in messages. Raises UserError if there is none.
    """
    while isinstance(content, dict):
        nested = next((content[key] for key in NESTED if isinstance(content.get(key), dict)), None)
        if nested is None:
            break
        content = nested
    if not isinstance(content, dict) or not content or not all(isinstance(v, torch.Tensor) for v in content.values()):
        keys = (
            f"its first keys are {first_few(list(map(str, content)))}"
            if isinstance(content, dict)
            else "it contains no keys"
        )
        raise UserError(f"{path}: not a state dict, i.e. a dictionary of named weights; {keys}.")
    return {
        key.removeprefix("module."): value.float() if value.is_floating_point() else value
        for key, value in content.items()
    }


class skip_init(TorchFunctionMode):
    """Context in which models are built without random initialisation, which takes seconds.

    Their weights are undefined until a state dict is loaded.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.__name__.endswith(("uniform_", "normal_")):  # also those of nn.init, as kaiming_uniform_
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def load_weights_strict(
    module: nn.Module, state: StateDict, path: Path | str, kind: str, name_of: Callable[[str], str] = str
) -> None:
    """Load a state dict into a module. For the parameters and the UserError raised see ``check_state_dict``."""
    check_state_dict(module, state, path, kind, name_of)
    module.load_state_dict({**module.state_dict(), **state})


def check_state_dict(
    module: nn.Module, state: StateDict, path: Path | str, kind: str, name_of: Callable[[str], str] = str
) -> None:
    """Raise UserError unless a state dict has the keys and shapes of a module, and finite values only.

    ``module`` may be on any device, including meta. For the message: ``path`` is the file, ``kind`` a description of
    the module such as "an IResNet face encoder", and ``name_of(key)`` the name in the file of a key of the module.
    """
    expected = {key: value.shape for key, value in module.state_dict().items()}
    optional = "num_batches_tracked"  # a counter of BatchNorm without effect
    missing = [name_of(key) for key in expected if key not in state and not key.endswith(optional)]
    unexpected = [name_of(key) for key in state if key not in expected]
    reshaped = [
        f"{name_of(key)} is {tuple(state[key].shape)} instead of {tuple(shape)}"
        for key, shape in expected.items()
        if key in state and state[key].shape != shape
    ]
    problems = [
        f"{label} {first_few(names)}"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape:", reshaped))
        if names
    ]
    if problems:
        raise UserError(f"{path}: these are not the weights of {kind}; {'; '.join(problems)}.")
    broken = [name_of(key) for key, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{path}: NaN or infinite weights in {first_few(broken)}.")


def first_few(names: list[str]) -> str:
    """The first names of a list, and the number of the others, for a message."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def freeze_for_inference(
    module: nn.Module, device: torch.device | str, dtype: torch.dtype, in_float32: nn.Module | None = None
) -> nn.Module:
    """The module in eval mode, in channels_last, and without gradients of its parameters; the input still gets one.

    ``in_float32``: a part of the module that keeps its float32 weights, unrounded.
    """
    module.eval().requires_grad_(False)
    exact = {name: value.clone() for name, value in in_float32.state_dict().items()} if in_float32 is not None else {}
    module.to(device=device, dtype=dtype, memory_format=torch.channels_last)
    if in_float32 is not None:
        in_float32.float().load_state_dict(exact)
    return module


def sha256(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file. Raises OSError if it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def save_file(content: Any, path: Path | str) -> None:
    """Write a weight file atomically, so that a kill or a full disk leaves an existing file intact.

    Raises UserError if the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".next")
    try:
        torch.save(content, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot write: {getattr(error, 'strerror', None) or error}") from error
