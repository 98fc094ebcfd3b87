"""One model in several processes: the exchange of gradients, and when it is left out."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel

from utils.runtime.device import compiled
from utils.runtime.distributed import Distributed


def parallel(
    model: nn.Module,
    world: Distributed,
    device: torch.device,
    compile: bool = False,
    differing: Sequence[nn.Parameter] = (),
) -> nn.Module:
    """``model``, compiled if asked for, and wrapped to average gradients if there are several processes.

    ``differing``: parameters that each process has of its own, which are left out. The model is compiled before it is
    wrapped, because otherwise ``no_sync_if`` would have no effect. Raises UserError when there is no compiler.
    """
    model = compiled(model, device) if compile else model
    if world.size == 1:
        return model
    names = [name for name, parameter in model.named_parameters() if any(parameter is own for own in differing)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)
    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def no_sync_if(condition: bool, model: nn.Module) -> AbstractContextManager:
    """A context in which backward passes leave out the exchange of gradients, if ``condition`` holds."""
    return model.no_sync() if condition and isinstance(model, DistributedDataParallel) else nullcontext()
