"""Memory, device or page: what each error that a GPU's libraries raise is taken for."""

from __future__ import annotations

import pytest
import torch

from rtprune.engine.faults import fault_of
from rtprune.errors import DocumentError, Reason


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "memory"),
        (torch.AcceleratorError("CUDA error: out of memory"), "memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), "memory"),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), "device"),
        (torch.AcceleratorError("device-side assert triggered"), "device"),
        (RuntimeError("CUDA error: unspecified launch failure"), "device"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"), "device"),
        (torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing"), "page"),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), "page"),
        (ValueError("features must be finite, got NaN or infinity in 3 of 273 tokens"), "page"),
        (DocumentError(Reason.NO_VISUAL_TOKENS, "CUDA error: only what a page says"), "page"),
        (IndexError("index out of range in self"), "page"),
    ],
)
def test_each_error_is_laid_at_the_right_door(error: Exception, fault: str) -> None:
    assert fault_of(error) == fault
