"""The version of this program's own source."""

import subprocess
from pathlib import Path


def revision(folder: str | Path = Path(__file__).parent) -> str | None:
    """The git commit that a folder's files are of.

    Args:
        folder: within a checkout.

    Returns:
        The full hash, with "-dirty" behind it where tracked files have changed; None outside a git
        checkout, and where there is no git.
    """
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(describe, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
