"""Convolutions and ReLU6 for networks of thin layers, which need less time and memory.

They compute the same as PyTorch's functions, up to rounding, and have first derivatives only. While
a graph is compiled, exported or traced, PyTorch's functions take their place.

Legend: B images, C channels, h w size of a map, k size of a kernel.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_SIX = 6.0


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve with kernels of one pixel.

    On a CPU, where no gradient is needed, this is a product of matrices.

    Args:
        x: Maps (B,C,h,w).
        weight: Weights (C',C,1,1).
        bias: Bias (C',), or None.

    Returns:
        Maps (B,C',h,w).
    """
    if (
        x.ndim != 4
        or x.device.type != "cpu"
        or _is_recorded()
        or _is_differentiated(x, weight, bias)
    ):
        return F.conv2d(x, weight, bias)
    batch, _, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).flatten(0, 2)  # (B*h*w,C)
    y = F.linear(pixels, weight.flatten(1), bias)
    return y.view(batch, height, width, len(weight)).permute(0, 3, 1, 2)


def depthwise(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0
) -> Tensor:
    """Convolve each channel with a kernel of its own.

    On a CPU, the backward pass avoids two slow cases of oneDNN. The gradient of kernels larger than
    3x3 is put together from those of 3x3 parts. And gradients of bfloat16 and float16 are computed
    in float32.

    Args:
        x: Maps (B,C,h,w).
        weight: Kernels (C,1,k,k). The gradients above need an odd size k.
        bias: Bias (C,), or None.
        stride: Stride in both dimensions.
        padding: Number of zeros added on each side.

    Returns:
        Maps (B,C,h',w').
    """
    usual = x.ndim == 4 and weight.shape[2] == weight.shape[3] and weight.shape[2] % 2 == 1
    own = usual and x.device.type == "cpu" and _is_differentiated(x, weight, bias)
    if not own or _is_recorded():
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))
    if torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    y: Tensor = _Depthwise.apply(x, weight, bias, stride, padding)  # type: ignore[no-untyped-call]
    return y


def _is_differentiated(*tensors: Tensor | None) -> bool:
    """Tell whether a result of the tensors gets a backward pass."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _is_recorded() -> bool:
    """Tell whether a graph is compiled, exported or traced."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution with the backward pass of `depthwise`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        of_input, of_kernels, of_bias, *_ = ctx.needs_input_grad
        dtype = torch.promote_types(gradient.dtype, torch.float32)
        gradient, x, weight = (t.to(dtype) for t in (gradient, *saved))
        arguments = (gradient, x, weight, ctx.stride, ctx.padding)
        results = (
            _input_gradient(*arguments) if of_input else None,
            _kernel_gradient(*arguments) if of_kernels else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
        )
        cast = (None if result is None else result.to(saved[0].dtype) for result in results)
        return (*cast, None, None)


def _input_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int
) -> Tensor:
    """Compute the gradient of x."""
    return _gradients(gradient, x, weight, stride, padding, (True, False))[0]


def _kernel_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int
) -> Tensor:
    """Compute the gradient (C,1,k,k) of the kernels, in 3x3 parts that overlap if k > 3."""
    size = weight.shape[-1]
    if size <= 3:
        return _gradients(gradient, x, weight, stride, padding, (False, True))[1]
    padded = F.pad(x, (padding,) * 4) if padding else x  # padding by 0 would copy
    height, width = ((n - 1) * stride + 3 for n in gradient.shape[2:])
    part = weight[:, :, :3, :3]
    result = torch.empty_like(weight)
    for i in range(0, size - 2, 2):
        for j in range(0, size - 2, 2):
            seen = padded[:, :, i : i + height, j : j + width]
            _, of_part = _gradients(gradient, seen, part, stride, 0, (False, True))
            result[:, :, i : i + 3, j : j + 3] = of_part
    return result


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, mask: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of x and of the kernels, where `mask` says so."""
    of_input, of_kernels, _ = torch.ops.aten.convolution_backward(
        gradient,
        x,
        weight,
        bias_sizes=None,
        stride=(stride,) * 2,
        padding=(padding,) * 2,
        dilation=(1, 1),
        transposed=False,
        output_padding=(0, 0),
        groups=len(weight),
        output_mask=(*mask, False),
    )
    return of_input, of_kernels


def relu6(x: Tensor) -> Tensor:
    """Compute min(max(x, 0), 6).

    The backward pass needs only the result, which the next convolution keeps anyway. PyTorch's
    function keeps its input too, also if it works in place. So the result must not be changed in
    place.

    Args:
        x: Any tensor.

    Returns:
        Tensor of the same shape.
    """
    own = _is_differentiated(x) and not _is_recorded()
    y: Tensor = _ReLU6.apply(x) if own else F.relu6(x)  # type: ignore[no-untyped-call]
    return y


class _ReLU6(torch.autograd.Function):
    """ReLU6 with the backward pass of `relu6`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp(0, _SIX)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        result: Tensor = torch.ops.aten.hardtanh_backward(gradient, y, 0, _SIX)
        return result
