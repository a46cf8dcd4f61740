"""How large a model is, and what it computes."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


def model_size(module: nn.Module, image_size: Sequence[int]) -> dict[str, float]:
    """Counts parameters and arithmetic, under the names they are logged by.

    Args:
        module: called with images (1,3,H,W).
        image_size: (H, W).

    Returns:
        model/parameters and model/trainable_parameters of the whole module; model/gflops: 10^9
        floating-point operations of its forward pass for one photo, in convolutions and matrix
        products, a multiplication and its addition counted as two.
    """
    # Shapes without values: nothing is computed, and the batch norms of the model stay as they are.
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
