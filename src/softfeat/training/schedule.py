"""The course of the learning rate, the same for both systems."""

from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

POWER = 0.9  # of the decay, as in the paper


def poly_with_warmup(
    optimizer: Optimizer,
    total_steps: int,
    warmup_steps: int = 0,
    factors: Sequence[float] = (1.0,),
) -> LambdaLR:
    """Makes a schedule of linear growth and polynomial decay to 0.

    Args:
        optimizer: Optimiser whose learning rates are scaled.
        total_steps: Number of steps after which the rate is 0.
        warmup_steps: Number of steps of linear growth.
        factors: Constant factor of each parameter group's rate.

    Returns:
        A schedule to be advanced after every optimiser step.
    """

    def scale(step: int) -> float:
        decay = (1 - min(step, total_steps) / total_steps) ** POWER
        return float(decay * min(1.0, (step + 1) / (warmup_steps + 1)))

    def scaled(factor: float) -> Callable[[int], float]:
        return lambda step: factor * scale(step)

    return LambdaLR(optimizer, [scaled(factor) for factor in factors])
