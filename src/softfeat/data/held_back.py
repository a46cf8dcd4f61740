"""The photos of a train split that are held back, so that recipes are chosen on other data."""

import hashlib


def is_held_back(stem: str) -> bool:
    """Whether a photo belongs to the tenth that is held back, by a hash of its file name.

    Args:
        stem: File name without its suffix.

    >>> [i for i in range(40) if is_held_back(f"photo_{i}")]
    [19, 29]
    """
    return int(hashlib.sha256(stem.encode()).hexdigest()[:8], 16) % 10 == 0
