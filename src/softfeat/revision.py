"""The version of the program that is running."""

import subprocess
from importlib.metadata import version
from pathlib import Path

_SOURCE = Path(__file__).parents[1]  # `src` of a checkout, or where packages are installed
_CHECKOUT = _SOURCE.parent if _SOURCE.name == "src" else _SOURCE


def revision(checkout: Path = _CHECKOUT) -> str:
    """Identify the source code of this program.

    Args:
        checkout: Root of the project's checkout, if there is one. A repository further up is
            ignored, such as that of a user who installed the package.

    Returns:
        In a checkout, the full hash of the git commit, followed by "-dirty" if tracked files have
        changed. Otherwise, or if git is missing, the version, such as "v0.1.0".
    """
    installed = f"v{version('softfeat')}"
    if not (checkout / ".git").exists():
        return installed
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(describe, cwd=checkout, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return installed
    return result.stdout.strip() or installed
