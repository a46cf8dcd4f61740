"""Export a network: python -m src.export checkpoint=RUN_DIR output=NAME.safetensors|NAME.onnx.

A `.safetensors` file contains the weights in half precision. Every command accepts it as
`checkpoint=`. Its SHA-256 is added to `SHA256SUMS` in the same folder.

An `.onnx` file contains the network for other programs. Its input `image` (B,3,H,W) is RGB in [0,1]
of any size. Its outputs are `features` (B,128,H,W) and, with a head, `scores` (B,K,H,W).

`level_norm=` sets a parameter of the network that has no effect in training (see `Extractor`). A
click network is left out then.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from softfeat.atomic import replaced
from softfeat.checks import number
from softfeat.commands.cli import command
from softfeat.models.checkpoints import (
    checkpoint_file,
    read_checkpoint,
    run_directory,
    write_weights,
)
from softfeat.models.extractor import extractor_of
from softfeat.tables import print_table
from softfeat.training.hard_segmentation import load_hard_segmentation
from softfeat.training.run_config import read_config

# Keys of a run's configuration that describe its weights
_DESCRIPTION = (
    "revision",
    "name",
    "seed",
    "data.image_size",
    "data.batch_size",
    "data.superpixels.count",
    "trainer.max_epochs",
    "data.steps_per_epoch",
)


def about(checkpoint: Path) -> dict[str, Any]:
    """Describe the weights of a checkpoint, without paths of this machine.

    Args:
        checkpoint: File of a training run or of exported weights.

    Returns:
        Values of the run's configuration that describe its weights, by key. For exported weights
        the description in the file. The features that a head was trained on are described under
        the key "features".
    """
    description, features = _description(checkpoint)
    if features and checkpoint_file(features).is_file():
        # The features of these features, if a file names any, are not followed.
        description["features"], _ = _description(checkpoint_file(features))
    return description


def _description(checkpoint: Path) -> tuple[dict[str, Any], str | None]:
    """Describe a checkpoint by itself. Also return the checkpoint of its features, if any."""
    directory = run_directory(checkpoint)
    if directory is None:
        return dict(read_checkpoint(checkpoint).get("about", {})), None
    cfg = read_config(directory / "config.yaml")
    description: dict[str, Any] = {}
    for key in _DESCRIPTION:
        value = OmegaConf.select(cfg, key)
        description[key] = OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
    features = OmegaConf.select(cfg, "model.features_checkpoint")
    return description, features and str(features)


class _Network(nn.Module):
    """Network that returns the features and, if there is a head, the class scores."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        content = read_checkpoint(checkpoint)
        self.hard = "hard_segmentation" in content
        self.extractor = extractor_of(content)
        self.module = load_hard_segmentation(checkpoint) if self.hard else None

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features: Tensor = self.extractor(image)
        return features if self.module is None else (features, self.module(image))


def write_onnx(checkpoint: Path, path: Path) -> list[str]:
    """Write a network as an ONNX file that accepts any batch size and any photo size.

    Args:
        checkpoint: File of the network, see `read_checkpoint`.
        path: File `<name>.onnx` to write.

    Returns:
        Names of the outputs.

    Raises:
        ImportError: If the extra `onnx` is not installed.
    """
    # torch's exporter needs onnxscript. Check for it before the network is loaded.
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "writing .onnx needs the extra onnx: pip install 'softfeat[onnx]', or in a checkout "
            "pip install '.[onnx]'"
        ) from error
    network = _Network(checkpoint).eval()
    names = ["features", "scores"] if network.hard else ["features"]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    # The exporter warns about its own internals.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (torch.rand(2, 3, 70, 102),),
            dynamo=True,
            dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
            input_names=["image"],
            output_names=names,
            verbose=False,
        )
    assert program is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as partial:
        program.save(partial)
    return names


def _leave_out_clicks(content: dict[str, Any]) -> None:
    """Remove the click network, which was trained on the features as they were."""
    if content.pop("clicks", None) is not None:
        state = content["state_dict"].items()
        content["state_dict"] = {k: v for k, v in state if not k.startswith("clicks.")}
        print("the click network is left out: it was trained on features of another level_norm")


@command("export", text=("checkpoint", "output"))
def main(cfg: DictConfig) -> None:
    """Write the file, and print its size with its hash or its outputs."""
    checkpoint = checkpoint_file(cfg.checkpoint)
    output = Path(cfg.output)
    content = read_checkpoint(checkpoint)
    if cfg.level_norm is not None and (
        output.suffix != ".safetensors" or "hard_segmentation" in content
    ):
        raise ValueError(
            "level_norm= can only be set for soft features written as .safetensors: a head needs "
            "the features that it was trained on"
        )
    if output.suffix == ".onnx":
        written = {"outputs": ", ".join(write_onnx(checkpoint, output))}
    elif output.suffix == ".safetensors":
        if cfg.level_norm is not None:
            number("level_norm", cfg.level_norm, 0, 1)
            content["extractor"]["level_norm"] = float(cfg.level_norm)
            _leave_out_clicks(content)
        written = {"sha256": write_weights(output, content, about(checkpoint))}
    else:
        raise ValueError(f"output={output}: the name must end in .safetensors or .onnx")
    print_table(str(output), {"MB": output.stat().st_size / 1e6, **written})


if __name__ == "__main__":
    main()
