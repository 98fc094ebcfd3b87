"""The number formats that a run computes in, chosen once from the flags and the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from models.errors import UserError
from models.vec2face import blocks_dtype

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
AMPERE = (8, 0)  # the compute capability from which NVIDIA GPUs have bfloat16 and TF32


@dataclass(frozen=True)
class Precision:
    """The number formats of a run on one kind of device.

    ``weights``: dtype of the models' parameters; ``autocast_dtype``: what torch.autocast casts operations to, None
    where there is no autocast; ``tf32``: whether a GPU may round the inputs of float32 products and convolutions to
    TF32, which has a 10-bit mantissa like float16; ``note``: a line for the user if the formats differ from the
    requested ones.
    """

    weights: torch.dtype = torch.float32
    autocast_dtype: torch.dtype | None = None
    tf32: bool = False
    note: str | None = None

    @classmethod
    def for_inference(cls, name: str, device: torch.device) -> "Precision":
        """The precision of frozen models, whose weights are cast. ``name``: "auto" or a name in PRECISIONS.

        "auto" is bf16 if the hardware supports it, else fp16 on a GPU and fp32 on a CPU. TF32 is off, also for the
        parts that stay in float32 beside a 16-bit format. Raises UserError for fp16 on a CPU.
        """
        if name == "fp16" and device.type == "cpu":
            raise UserError("--precision fp16 needs a GPU; on a CPU use bf16, fp32 or auto.")
        if name == "auto":
            name = "bf16" if has_bf16(device) else "fp16" if device.type == "cuda" else "fp32"
        return cls(weights=PRECISIONS[name])

    @classmethod
    def for_training(cls, use_amp: bool, amp_dtype: str | None, device: torch.device) -> "Precision":
        """The precision of training: float32 weights, and autocast if ``use_amp``.

        ``amp_dtype``: "float16" or "bfloat16", the autocast dtype on a GPU. On a GPU without bfloat16 float16 is used
        instead, and ``note`` says so. A CPU uses bfloat16 or no autocast. TF32 is on if the GPU supports it.
        """
        tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= AMPERE
        if not use_amp or (device.type == "cpu" and not has_bf16(device)):
            return cls(tf32=tf32)
        if device.type == "cpu":
            return cls(autocast_dtype=torch.bfloat16)
        if device.type == "cuda" and amp_dtype == "bfloat16" and not has_bf16(device):
            major, minor = torch.cuda.get_device_capability(device)
            note = (
                f"--amp_dtype bfloat16: {torch.cuda.get_device_name(device)} (compute capability {major}.{minor}) has "
                "no bfloat16; training in float16 with loss scaling instead."
            )
            return cls(autocast_dtype=torch.float16, tf32=tf32, note=note)
        return cls(autocast_dtype=getattr(torch, amp_dtype), tf32=tf32)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of most of the arithmetic; the frozen models of a training loss are cast to it."""
        return self.autocast_dtype or self.weights

    @property
    def name(self) -> str:
        """The name of ``dtype`` in PRECISIONS."""
        return next(name for name, dtype in PRECISIONS.items() if dtype == self.dtype)

    def apply(self, deterministic: bool = False) -> None:
        """Set the backend flags of this process. To be called only by the ``main`` of a script, or a notebook.

        ``deterministic``: whether cuDNN is limited to algorithms with bitwise reproducible results.
        """
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.tf32
        torch.backends.cudnn.deterministic = deterministic

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context manager that sets the backend flags of this precision, and restores the previous ones at its end."""
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        deterministic = torch.backends.cudnn.deterministic
        try:
            self.apply(deterministic)
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]

    def autocast(self, device: torch.device) -> torch.autocast:
        """A torch.autocast context, disabled if ``autocast_dtype`` is None."""
        enabled = self.autocast_dtype is not None
        return torch.autocast(device.type, self.autocast_dtype or torch.bfloat16, enabled=enabled)

    def scaler(self, device: torch.device, differing: bool = False) -> torch.amp.GradScaler:
        """A new gradient scaler, enabled only under float16 autocast.

        ``differing``: processes have parameters of their own; all skip a step if one of them has to.
        """
        enabled = self.autocast_dtype == torch.float16
        if enabled and differing:
            from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler  # takes most of a second

            return ShardedGradScaler(device.type)
        return torch.amp.GradScaler(device.type, enabled=enabled)

    def describe(self) -> dict[str, Any]:
        """The formats as plain values, for settings.json, logs and reports."""
        return {
            "weights": name_of(self.weights),
            "autocast": self.autocast_dtype and name_of(self.autocast_dtype),
            "transformer_blocks": name_of(blocks_dtype(self.dtype)),
            "tf32": self.tf32,
            "loss_scaling": self.autocast_dtype == torch.float16,
        }

    def in_report(self) -> dict[str, Any]:
        """The entries of a JSON report that say in which precision its figures were computed."""
        return {"precision": self.name, "number_formats": self.describe()}

    def __str__(self):
        autocast = f"{name_of(self.autocast_dtype)} autocast" if self.autocast_dtype else "no autocast"
        parts = [f"{name_of(self.weights)} weights", autocast]
        if blocks_dtype(self.dtype) != self.dtype:
            parts.append(f"transformer blocks in {name_of(blocks_dtype(self.dtype))}")
        parts += ["TF32 on" if self.tf32 else "TF32 off"]
        return ", ".join(parts + ["loss scaling"] * (self.autocast_dtype == torch.float16))


def name_of(dtype: torch.dtype) -> str:
    """The short name of a dtype: "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware computes in bfloat16: NVIDIA GPUs from Ampere on, CPUs with AVX-512 BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= AMPERE
    return device.type == "cpu" and cpu_has_bf16()


def cpu_has_bf16() -> bool:
    """Whether the CPU has AVX-512 BF16 instructions."""
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(probe())
