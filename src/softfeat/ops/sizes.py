"""Integer arithmetic for sizes."""


def ceil_div(dividend: int, divisor: int) -> int:
    """Divide and round up.

    Args:
        dividend: Any integer.
        divisor: Positive integer.

    Returns:
        Smallest integer that is at least `dividend / divisor`.

    >>> ceil_div(224, 32), ceil_div(225, 32)
    (7, 8)
    """
    return -(-dividend // divisor)
