"""Photos of the train split that are held back, so that settings are not chosen on test photos."""

import hashlib


def is_held_back(stem: str) -> bool:
    """Check whether a photo belongs to the tenth that is held back, by a hash of its file name.

    Args:
        stem: File name without its suffix.

    Returns:
        True if the photo is held back.

    >>> [i for i in range(40) if is_held_back(f"photo_{i}")]
    [19, 29]
    """
    return int(hashlib.sha256(stem.encode()).hexdigest()[:8], 16) % 10 == 0
