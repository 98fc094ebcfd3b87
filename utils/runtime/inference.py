"""Setting up a process that runs frozen models."""

import torch

from utils.runtime.device import keep_freed_memory, resolve_device
from utils.runtime.precision import Precision


def set_up_process(
    device: str, precision: str, local_rank: int = 0, deterministic: bool = False
) -> tuple[torch.device, Precision]:
    """The device and the Precision of these names, with the backend flags of this process set accordingly.

    ``device``: auto, cpu, cuda or cuda:N; ``precision``: auto, fp32, bf16 or fp16; ``local_rank``: which GPU auto is;
    ``deterministic``: as for ``Precision.apply``. Only for the ``main`` of a script or for a notebook, as the backend
    flags hold for the whole process. Raises UserError for a device or a precision that this machine lacks.
    """
    chosen = resolve_device(device, local_rank)
    keep_freed_memory(chosen)
    formats = Precision.for_inference(precision, chosen)
    formats.apply(deterministic)
    return chosen, formats
