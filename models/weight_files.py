"""Reading weight files without running what is in them, and saying clearly when one does not fit."""

import argparse
import hashlib
import os
import pickle
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode

from models.errors import UserError

NESTED = ("state_dict", "model_state_dict", "model", "backbone")  # where FR and pose projects put their weights
SHOWN = 3  # keys named in a message


def load_file(path, advice="Fetch it again."):
    """Load a weight file on the CPU. Only tensors and plain values are admitted: nothing in the file is run.

    Raises UserError when the file is missing, truncated, no weight file, or holds anything else. ``advice``: how the
    message about a damaged file ends.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such weight file. `python download_vec2face_weights.py` fetches the released ones; "
            "small demo weights lie in weights/demo/."
        )
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # released checkpoints keep their arguments so
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():  # it names something to call
            raise UserError(f"{path}: refused, it holds code and not only weights.") from error
        raise UserError(f"{path}: not a weight file, or damaged. {advice}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, IndexError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not a weight file, or truncated. {advice}") from error


def state_dict_of(content, path):
    """The {key: tensor} inside a loaded file, without a ``module.`` prefix; half-precision tensors become float32."""
    while isinstance(content, dict):
        nested = next((content[key] for key in NESTED if isinstance(content.get(key), dict)), None)
        if nested is None:
            break
        content = nested
    if not isinstance(content, dict) or not content or not all(isinstance(v, torch.Tensor) for v in content.values()):
        found = (
            f"its first keys are {first_few(list(map(str, content)))}"
            if isinstance(content, dict)
            else "no keys at all"
        )
        raise UserError(f"{path}: not a plain file of weights by name (state dict): {found}.")
    return {
        key.removeprefix("module."): value.float() if value.is_floating_point() else value
        for key, value in content.items()
    }


class skip_init(TorchFunctionMode):
    """Models built in this context draw no random start values, which takes seconds: for weights from a file."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.__name__.endswith(("uniform_", "normal_")):  # nn.init's too, named kaiming_uniform_ and so on
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def load_weights_strict(module, state, path, kind, name_of=str):
    """Load ``state`` into ``module``; UserError with the first differing keys when it does not fit exactly."""
    check_state_dict(module, state, path, kind, name_of)
    module.load_state_dict({**module.state_dict(), **state})


def check_state_dict(module, state, path, kind, name_of=str):
    """Raise UserError when ``state`` is not what ``module`` (on any device, meta too) holds, or is not finite.

    ``name_of`` turns a key of the module into the name it has in the file, for the message.
    """
    expected = {key: value.shape for key, value in module.state_dict().items()}
    optional = "num_batches_tracked"  # counted in training, used nowhere
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


def first_few(names):
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def freeze_for_inference(module, device, dtype):
    """Ready for inference: eval mode, no parameter gradients, channels_last. Gradients still reach the input."""
    module.eval().requires_grad_(False)
    return module.to(device=device, dtype=dtype, memory_format=torch.channels_last)


def sha256(path):
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def save_file(content, path):
    """Write a weight file in one step: a kill or a full disk leaves what was there before. Raises UserError."""
    path = Path(path)
    temporary = path.with_name(path.name + ".next")
    try:
        torch.save(content, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot write: {getattr(error, 'strerror', None) or error}") from error
