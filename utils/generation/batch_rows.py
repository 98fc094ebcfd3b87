"""The number of rows that are computed together.

On a CPU the kernels, and with them the rounding of a row, depend on the number of rows in a batch. So a CPU uses the
same small number in every run, whatever ``--batch_size`` says: the files do not depend on the number of identities, and
few identities take little time. A GPU uses ``--batch_size``.
"""

import torch

CPU_ATTROP_ROWS = 8
CPU_DECODED_ROWS = 16  # decoding costs a third of an AttrOP iteration, so padding matters less than overhead


def attrop_rows(batch_size: int, device: torch.device) -> int:
    """Number of rows that AttrOP optimises at a time."""
    return CPU_ATTROP_ROWS if device.type == "cpu" else batch_size


def decoded_rows(batch_size: int, device: torch.device) -> int:
    """Number of vectors that are decoded at a time."""
    return CPU_DECODED_ROWS if device.type == "cpu" else batch_size


def measured_rows(batch_size: int, device: torch.device) -> int:
    """Number of images from AttrOP that are measured at a time: one on a CPU, where a batch would gain nothing."""
    return 1 if device.type == "cpu" else batch_size
