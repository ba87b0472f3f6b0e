"""What an error of the device means: memory that others hold, a device that is lost, or a page that cannot be read."""

from __future__ import annotations

from typing import Literal

import torch

Fault = Literal["memory", "device", "page"]

#: What libraries say when they cannot allocate; torch knows only its own allocator's failures by type.
_MEMORY = (
    "CUDA error: out of memory",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DEVICE_ALLOCATION_FAILED",  # cuDNN 9 names several
    "CUSOLVER_STATUS_ALLOC_FAILED",
)
#: What they say when nothing more can be done in this process.
_DEVICE = ("CUDA error:", "CUBLAS_STATUS_EXECUTION_FAILED", "CUDNN_STATUS_EXECUTION_FAILED", "device-side assert")


def fault_of(error: BaseException) -> Fault:
    """Whose fault ``error`` is.

    Only errors that the device's libraries raise, `RuntimeError` and what is derived from it, can be the device's.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return "memory"
    if not isinstance(error, RuntimeError):
        return "page"
    said = str(error)
    if any(mark in said for mark in _MEMORY):
        return "memory"
    if "captur" in said:
        return "page"  # what cannot be part of a CUDA graph; the device is well
    if isinstance(error, torch.AcceleratorError) or any(mark in said for mark in _DEVICE):
        return "device"
    return "page"
