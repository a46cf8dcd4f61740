"""What the processes of a distributed training (ddp) have to agree on."""

import torch
from torch import Tensor, distributed, nn


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def share_of_mean(weight: Tensor) -> Tensor:
    """Divides the weight of this process by the mean weight of all processes.

    Under ddp the gradients of the processes are averaged. If each loss is a weighted mean and is
    multiplied by this factor, the average is the gradient of the mean over all processes.

    Args:
        weight: Scalar, sum of the weights in this process.

    Returns:
        Scalar; 1 for a single process, 0 where no process has any weight.
    """
    total, processes = weight.clone(), 1
    if _several():
        distributed.all_reduce(total)
        processes = distributed.get_world_size()
    return torch.where(total > 0, processes * weight / total, 0.0)


def share_buffers(module: nn.Module) -> None:
    """Copies the buffers of the first process to all others: the statistics of its batch norms.

    Done once before a validation instead of before every forward pass, because processes with
    unequal numbers of batches would wait for each other.
    """
    if _several():
        for buffer in module.buffers():
            distributed.broadcast(buffer, 0)
