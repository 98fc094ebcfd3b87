"""CUDA without a GPU: tensors that have a shape, a dtype, strides and the device "cuda", but no values.

PyTorch's FakeTensorMode runs the real code on them and raises where tensors of two devices meet. What it cannot know is
a value: where the code asks the device for one, the host would wait, and that is counted here.
"""

from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import pytest
import torch
from packaging.version import parse
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

FIRST_WITHOUT_GPU = parse("2.14")  # or some version between 2.6 and this one
AMPERE, TURING = (8, 0), (7, 5)
READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")


class FakeMode(FakeTensorMode):
    """Never looks for a real GPU, although torch.cuda says that there is one."""

    avoid_device_init = True


class HostWaits(TorchDispatchMode):
    """Counts what makes the host wait for the device: ``reads`` of values, and ``uploads`` from pageable memory.

    A value that is read is ``answer``, or what that returns of the tensor that is read. A download with
    ``non_blocking=True`` does not wait and counts under ``downloads``, an upload with it under ``pinned``.
    """

    def __init__(self, answer):
        super().__init__()
        self.answer, self.counts = answer, Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, operation.name().split(".")[0]
        if (
            torch.is_inference_mode_enabled() and operation.namespace == "aten"
        ):  # where also operations come here that consist of others
            with self:
                result = operation.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        source = next((value for value in args if isinstance(value, torch.Tensor)), None)
        on_cuda = source is not None and source.device.type == "cuda"
        if name in READS:
            if on_cuda:
                self.counts["reads"] += 1
            arguments = [self._on_host(x) for x in args]
            with _disable_current_modes():
                result = operation(*arguments, **kwargs)
            return torch.ops.aten._to_copy(result, device=source.device) if isinstance(result, torch.Tensor) else result
        if name == "aten::_fused_sgd_":  # changes its arguments in place, and has no form without values
            assert {value.device for tensors in args[:3] for value in tensors} == {args[0][0].device}
            return None
        if name == "aten::index":
            args = (source, [index for mask in args[1] for index in self._as_numbers(mask)])
        if name == "aten::_to_copy" and kwargs.get("device") is not None:
            target = torch.device(kwargs["device"]).type
            if on_cuda and target == "cpu":
                self.counts["downloads" if kwargs.get("non_blocking") else "reads"] += 1
                value = self._on_host(source)
                with _disable_current_modes():
                    return value.to(kwargs.get("dtype") or source.dtype)
            if source.device.type == "cpu" and target == "cuda" and source.numel():
                self.counts["pinned" if kwargs.get("non_blocking") else "uploads"] += 1
        if name == "aten::copy_" and isinstance(args[1], torch.Tensor) and args[0].device != args[1].device:
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
            if on_cuda:
                self.counts["uploads" if waits else "pinned"] += 1
            else:
                self.counts["reads" if waits else "downloads"] += 1
        result = operation(*args, **kwargs)
        if name == "aten::convolution" and on_cuda and any(map(is_channels_last, args[:2])):
            return result.contiguous(memory_format=torch.channels_last)  # as cuDNN's is
        return result

    def _as_numbers(self, index):
        """An index of ``aten::index`` as the device needs it: a mask becomes numbers, for which the host waits."""
        if index is None or index.dtype != torch.bool:
            return [index]
        self.counts["reads"] += index.device.type == "cuda"
        with _disable_current_modes():
            numbers = self._on_host(index).nonzero().unbind(1)
        return [torch.ops.aten._to_copy(number, device=index.device) for number in numbers]

    def _on_host(self, value):
        """A real tensor full of the answer in the place of a tensor without values, of whichever device."""
        if not isinstance(value, torch.Tensor):
            return value
        with _disable_current_modes():
            answer = self.answer(value) if callable(self.answer) else self.answer
            return torch.as_tensor(answer).expand(value.shape).to(value.dtype).clone()


def is_channels_last(tensor):
    """Whether a kernel sees it so: not where NCHW would have the same strides."""
    last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return last and not tensor.is_contiguous()


class CurrentDevice:
    """Stands for torch.cuda.device: within it, ``number`` is the device's."""

    number = 0

    def __init__(self, device):
        self.wanted = torch.device(device).index or 0

    def __enter__(self):
        self.before, CurrentDevice.number = CurrentDevice.number, self.wanted

    def __exit__(self, *args):
        CurrentDevice.number = self.before


class Event:
    """Stands for torch.cuda.Event: nothing is under way. ``device``: the one on which it was recorded."""

    def __init__(self, *args, **kwargs):
        self.device = None

    def record(self, *args):
        self.device = CurrentDevice.number

    def synchronize(self):
        pass

    def query(self):
        return True


def convert(module, change, recurse=True):
    """nn.Module._apply, but parameters without values are replaced: PyTorch would swap them, which they refuse."""
    for child in module.children():
        convert(child, change)
    with torch.no_grad():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = torch.nn.Parameter(change(value), value.requires_grad)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = change(value)
    return module


def gradients(root, gradient=None):
    """Yield (leaf, gradient) of a scalar: what the autograd engine does, which asks a real GPU for its streams.

    Calls the same backward functions in the same order, in Python.
    """
    waiting, order = {}, [root.grad_fn]  # {node: calls of nodes that lead to it and are still to come}
    for node in order:
        for following, _ in node.next_functions:
            if following is not None:
                if following not in waiting:
                    order.append(following)
                waiting[following] = waiting.get(following, 0) + 1
    received = {node: {} for node in order}  # {node: {number of the output: gradient}}
    received[root.grad_fn][root.output_nr] = torch.ones_like(root) if gradient is None else gradient
    ready = [root.grad_fn]
    while ready:
        node = ready.pop()
        inputs = received.pop(node)
        if hasattr(node, "variable"):
            yield node.variable, inputs[0]
            continue
        call = node if callable(node) else node.apply  # a node of PyTorch, or of an autograd.Function
        results = call(*(inputs.get(number) for number in range(len(node._input_metadata)))) if inputs else ()
        results = results if isinstance(results, tuple) else (results,)
        for place, (following, number) in enumerate(node.next_functions):
            if following is None:
                continue
            if place < len(results) and results[place] is not None:
                wanted, before = following._input_metadata[number], received[following].get(number)
                value = results[place].to(wanted.dtype).sum_to_size(wanted.shape)
                received[following][number] = value if before is None else before + value
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)


@torch.no_grad()
def backward(tensor, gradient=None):
    """Tensor.backward by ``gradients``."""
    for leaf, value in gradients(tensor, gradient):
        leaf.grad = value if leaf.grad is None else leaf.grad + value


@torch.no_grad()
def grad(outputs, inputs, grad_outputs=None):
    """torch.autograd.grad of one scalar by ``gradients``."""
    inputs = [inputs] if isinstance(inputs, torch.Tensor) else inputs
    found = {}
    for leaf, value in gradients(outputs, grad_outputs):
        found[id(leaf)] = found[id(leaf)] + value if id(leaf) in found else value
    return tuple(found[id(leaf)] for leaf in inputs)


def outside_of_modes(function):
    """Tensor.numpy, say, which within FakeTensorMode refuses tensors that do have values."""

    def call(*args, **kwargs):
        with _disable_current_modes():
            return function(*args, **kwargs)

    return call


@contextmanager
def fake_cuda(capability=AMPERE, answer=1):
    """Pretend to have one GPU of a compute capability; gives HostWaits, whose ``counts`` may be read and cleared.

    Skips the test on a PyTorch whose FakeTensorMode needs a real GPU: 2.6 aborts, 2.14 does not.

    Build models before, on the CPU, and move them inside; what is moved is of no use afterwards.
    """
    if parse(torch.__version__) < FIRST_WITHOUT_GPU:
        pytest.skip(f"FakeTensorMode of torch {torch.__version__} needs a GPU for CUDA tensors")
    hooks = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "set_device": lambda device: None,
        "current_device": lambda: CurrentDevice.number,
        "device": CurrentDevice,
        "get_device_name": lambda device=None: "a GPU that is not there",
        "get_device_capability": lambda device=None: capability,
        "is_bf16_supported": lambda *args, **kwargs: capability >= AMPERE,
        "synchronize": lambda device=None: None,
        "Event": Event,
    }
    with ExitStack() as stack:
        stack.enter_context(FakeMode(allow_non_fake_inputs=True))  # before torch is made to report a GPU
        for name, hook in hooks.items():
            stack.enter_context(patch.object(torch.cuda, name, hook))
        stack.enter_context(patch.object(fake_tensor, "init_gpu_context", lambda device: None))
        stack.enter_context(patch.object(torch.nn.Module, "_apply", convert))
        stack.enter_context(patch.object(torch.Tensor, "backward", backward))
        stack.enter_context(patch.object(torch.autograd, "grad", grad))
        stack.enter_context(patch.object(torch.Tensor, "pin_memory", lambda self, *args: self))
        stack.enter_context(patch.object(torch.Tensor, "numpy", outside_of_modes(torch.Tensor.numpy)))
        waits = stack.enter_context(HostWaits(answer))
        yield waits
