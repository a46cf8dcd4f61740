"""Output that nobody reads any more, as with `| head`."""

import os
import sys
from typing import NoReturn


def end_of_output() -> NoReturn:
    """Ends quietly with exit code 1 after a BrokenPipeError."""
    # Python writes the rest while it ends, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
