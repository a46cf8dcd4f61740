"""A network to pass on: python -m src.export checkpoint=RUN_DIR output=NAME.safetensors|NAME.onnx.

`.safetensors` holds weights in half precision, which every command here takes as `checkpoint=`; its
SHA-256 goes to `SHA256SUMS` beside it. `.onnx` holds the network for other programs: `image`
(B,3,H,W) RGB in [0,1] of any size gives `features` (B,128,H,W), and with a head `scores` (B,K,H,W).
`level_norm=` changes what acts after training alone (see `Extractor`).
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from softfeat.commands.cli import readable_errors
from softfeat.models.checkpoints import (
    checkpoint_file,
    read_checkpoint,
    run_directory,
    write_weights,
)
from softfeat.models.extractor import extractor_of
from softfeat.tables import print_table
from softfeat.training.hard_segmentation import load_hard_segmentation

_TOLD = (
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
    """What a run's configuration says of its weights, without places on this machine."""
    directory = run_directory(checkpoint)
    if directory is None:
        known: dict[str, Any] = read_checkpoint(checkpoint).get("about", {})
        return known
    cfg = OmegaConf.load(directory / "config.yaml")
    values = {key: OmegaConf.select(cfg, key) for key in _TOLD}
    told = {k: OmegaConf.to_object(v) if OmegaConf.is_config(v) else v for k, v in values.items()}
    features = OmegaConf.select(cfg, "model.features_checkpoint")
    if features and checkpoint_file(features).is_file():
        told["features"] = about(checkpoint_file(features))
    return told


class _Network(nn.Module):
    """Features, and scores where there is a head, in one pass."""

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
    """Writes the network with all sizes free.

    Returns:
        Names of the outputs.

    Raises:
        ImportError: the extra `onnx` is not installed.
    """
    try:
        import onnxscript  # noqa: F401 - what torch's exporter needs, asked for before it starts
    except ImportError as error:
        raise ImportError("writing .onnx needs the extra: pip install '.[onnx]'") from error
    network = _Network(checkpoint).eval()
    names = ["features", "scores"] if network.hard else ["features"]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
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
    program.save(path)
    return names


@hydra.main(config_path="pkg://softfeat.conf", config_name="export", version_base="1.3")
@readable_errors
def main(cfg: DictConfig) -> None:
    """Writes and says what."""
    checkpoint, output = checkpoint_file(cfg.checkpoint), Path(cfg.output)
    content = read_checkpoint(checkpoint)
    if cfg.level_norm is not None and (
        output.suffix != ".safetensors" or "hard_segmentation" in content
    ):
        raise ValueError(
            "level_norm= is for weights (.safetensors) of soft features: a head knows no other "
            "features than those that it was trained on"
        )
    if output.suffix == ".onnx":
        written = {"outputs": ", ".join(write_onnx(checkpoint, output))}
    elif output.suffix == ".safetensors":
        if cfg.level_norm is not None:
            content["extractor"]["level_norm"] = float(cfg.level_norm)
            extractor_of(content)  # minds its range
        written = {"sha256": write_weights(output, content, about(checkpoint))}
    else:
        raise ValueError(f"output={output}: end it in .safetensors or .onnx")
    print_table(str(output), {"MB": output.stat().st_size / 1e6, **written})


if __name__ == "__main__":
    main()
