"""Number of parameters and floating-point operations of a model."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


def model_size(module: nn.Module, image_size: Sequence[int]) -> dict[str, float]:
    """Count the parameters and floating-point operations of a model.

    Args:
        module: Model that takes photos (1,3,H,W).
        image_size: Height H and width W in pixels.

    Returns:
        Numbers under the names by which they are logged. `model/parameters` and
        `model/trainable_parameters` count the parameters. `model/gflops` is 10^9 operations of the
        forward pass for one photo, in convolutions and matrix products. A multiplication and its
        addition count as two operations.
    """
    # Tensors on the meta device have shapes only. So nothing is computed, and the statistics of the
    # model's batch norms do not change.
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        functional_call(module, shapes, (torch.empty(1, 3, *image_size, device="meta"),))
    parameters = list(module.parameters())
    return {
        "model/parameters": sum(p.numel() for p in parameters),
        "model/trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "model/gflops": counter.get_total_flops() / 1e9,
    }
