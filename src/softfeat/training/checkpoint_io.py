"""Checkpoint files that are complete or do not exist."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from softfeat.atomic import replaced


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint next to the one that it replaces.

    Lightning's own class writes to the folder for temporary files first. From another disk the file
    is copied, and a copy can be cut off.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Writes a checkpoint.

        Args:
            checkpoint: Its content.
            path: File to write or replace.
            storage_options: Not used.

        Raises:
            OSError: The file cannot be written. An earlier one is as it was.
        """
        path = Path(path)
        content = io.BytesIO()  # torch hides the reason if it cannot write a file
        torch.save(checkpoint, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced(path) as partial, partial.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(
                f"the checkpoint {path} cannot be written: {error.strerror or error}. Earlier "
                "checkpoints are not damaged. Correct this, then continue with python -m src.train "
                f"resume={path.parent.parent}"
            ) from error
