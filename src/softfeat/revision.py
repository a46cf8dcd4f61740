"""The version of this program."""

import subprocess
from importlib.metadata import version
from pathlib import Path

_CHECKOUT = Path(__file__).parents[2]


def revision(checkout: Path = _CHECKOUT) -> str:
    """Returns what identifies the source of this program.

    Args:
        checkout: Root of the project's checkout, where there is one. A repository further up, such
            as that of a user who installed the package, does not count.

    Returns:
        In a checkout the full hash of the git commit, followed by "-dirty" if tracked files have
        changed. Elsewhere, and where there is no git, the version, as "v0.1.0".
    """
    installed = f"v{version('softfeat')}"
    if not (checkout / ".git").exists():
        return installed
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(describe, cwd=checkout, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return installed
    return done.stdout.strip() or installed
