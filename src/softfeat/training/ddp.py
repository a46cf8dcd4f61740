"""What the processes of ddp have to agree on."""

import torch
from torch import Tensor, distributed, nn


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def share_of_mean(weight: Tensor) -> Tensor:
    """A process's weight over the mean of all processes'; 1 where there is one.

    Under ddp the processes' gradients are averaged. Where each loss is a weighted mean, with this
    as its factor the average is the gradient of the mean over what all processes have.

    Args:
        weight: scalar, summed weights in this process.

    Returns:
        Scalar; 0 where no process has any.
    """
    total, processes = weight.clone(), 1
    if _several():
        distributed.all_reduce(total)
        processes = distributed.get_world_size()
    return torch.where(total > 0, processes * weight / total, 0.0)


def share_buffers(module: nn.Module) -> None:
    """Gives all processes the first one's buffers: the statistics of its batch norms.

    Once before a validation, in place of before every forward pass: processes with unequal numbers
    of batches would wait for each other.
    """
    if _several():
        for buffer in module.buffers():
            distributed.broadcast(buffer, 0)
