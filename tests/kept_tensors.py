"""What autograd keeps for the backward pass."""

import torch


def shapes_kept_by(function, *inputs):
    """The shape of each tensor that ``function(*inputs)`` keeps, one for each place in memory."""
    kept = {}  # {place in memory: shape}

    def keep(tensor):
        kept[tensor.data_ptr()] = tuple(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function(*inputs)
    return list(kept.values())
