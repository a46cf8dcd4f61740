"""How large a model is, and what it computes."""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def model_size(module: nn.Module, image_size: Sequence[int]) -> dict[str, float]:
    """Counts parameters and arithmetic, under the names they are logged by.

    Args:
        module: has an `extractor`, a network of images (1,3,H,W).
        image_size: (H, W).

    Returns:
        model/parameters and model/trainable_parameters of the whole module; model/gflops: 10^9
        floating-point operations of the extractor's forward pass for one photo, in convolutions and
        matrix products, a multiplication and its addition counted as two.
    """
    # Shapes without values: nothing is computed, and the batch norms of the model stay as they are.
    network = copy.deepcopy(module.get_submodule("extractor")).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, *image_size, device="meta"))
    parameters = list(module.parameters())
    return {
        "model/parameters": sum(p.numel() for p in parameters),
        "model/trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "model/gflops": counter.get_total_flops() / 1e9,
    }
