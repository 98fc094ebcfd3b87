"""How many rows are computed together.

The kernels of a CPU, and with them the rounding of a row, change with the number of rows in a batch. There it is the
same small number for every run, whatever ``--batch_size`` says: the same files come out for any number of identities,
and two cost little more than two. On a GPU it is ``--batch_size``.
"""

import torch

CPU_ATTROP_ROWS = 8
CPU_DECODED_ROWS = 16  # decoding takes a third of an AttrOP iteration, so that padding matters less than overhead


def attrop_rows(batch_size: int, device: torch.device) -> int:
    """Rows that AttrOP works on at a time."""
    return CPU_ATTROP_ROWS if device.type == "cpu" else batch_size


def decoded_rows(batch_size: int, device: torch.device) -> int:
    """Vectors that are decoded at a time."""
    return CPU_DECODED_ROWS if device.type == "cpu" else batch_size


def measured_rows(batch_size: int, device: torch.device) -> int:
    """Images from AttrOP that are measured at a time: those of a CPU are ready one by one, and soon measured."""
    return 1 if device.type == "cpu" else batch_size
