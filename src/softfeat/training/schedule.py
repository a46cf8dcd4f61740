"""The learning rate's course, the same in both systems."""

from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def poly_with_warmup(
    optimizer: Optimizer,
    total_steps: int,
    power: float,
    warmup_steps: int,
    factors: Sequence[float] = (1.0,),
) -> LambdaLR:
    """Polynomial decay to 0, after linear growth.

    Args:
        optimizer: whose rates are scaled, once a step.
        total_steps: at the end of which the rate is 0.
        power: of the decay; the paper's is 0.9.
        warmup_steps: of the growth.
        factors: Constant factor of each parameter group's rate.
    """

    def scale(step: int) -> float:
        decay = (1 - min(step, total_steps) / total_steps) ** power
        return float(decay * min(1.0, (step + 1) / (warmup_steps + 1)))

    def scaled(factor: float) -> Callable[[int], float]:
        return lambda step: factor * scale(step)

    return LambdaLR(optimizer, [scaled(factor) for factor in factors])
