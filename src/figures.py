"""Sheets of any photos in the manner of the paper's figures: python -m src.figures checkpoint=FILE.

`guided_filter.png`: F without and with the guided filter (Fig. 3); `random_projections.png`: F seen
from random directions (Fig. 4); `superpixels.png`: superpixels and their mean features (Fig. 5);
`segmentation.png`: classes (Fig. 8, for a checkpoint of hard segmentation).
"""

from pathlib import Path

import hydra
import numpy as np
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image
from rich.progress import track
from torch import Tensor

from src.callbacks.guided_filter import GuidedFilter
from src.callbacks.pictures import feature_columns
from src.data.images import find_photos, read_image, resize_image
from src.data.slic import Superpixels
from src.models.checkpoints import read_checkpoint
from src.models.extractor import extractor_of
from src.models.hard_segmentation import load_hard_segmentation
from src.ops.pca import normalise, pca, random_projection
from src.utils.cli import readable_errors
from src.utils.drawing import boundaries, label_colours, overlay, sheet


def read_photo(path: Path, long_side: int) -> NDArray[np.uint8]:
    """A photo (H,W,3) uint8 with its longer side at `long_side`."""
    photo = read_image(path)
    height, width = photo.shape[:2]
    scale = long_side / max(height, width)
    return resize_image(photo, (max(1, round(height * scale)), max(1, round(width * scale))))


class Figures:
    """Draws the figures of one photo after another.

    Args:
        checkpoint: of either system.
        superpixels: parameters of the maps.
        guided_filter: of the feature maps.
    """

    def __init__(
        self, checkpoint: str | Path, superpixels: Superpixels, guided_filter: GuidedFilter
    ) -> None:
        content = read_checkpoint(checkpoint)
        self.extractor = extractor_of(content)
        self.hard = load_hard_segmentation(checkpoint) if "hard_segmentation" in content else None
        self.superpixels, self.guided_filter = superpixels, guided_filter

    @torch.no_grad()
    def __call__(self, photo: NDArray[np.uint8]) -> dict[str, dict[str, Tensor]]:
        """Draws a photo (H,W,3) uint8.

        Returns:
            For each figure its pictures (1,3,H,W) in [0,1] by title.
        """
        image = torch.tensor(photo.transpose(2, 0, 1).copy()).float()[None] / 255
        superpixels = torch.tensor(self.superpixels(photo).astype(np.int64))[None]
        features = self.extractor(image)
        filtered = self.guided_filter(features, image)
        seen = feature_columns(features, filtered, superpixels)
        figures = {
            "guided_filter": {
                "photo": image,
                **{k: v for k, v in seen.items() if k.startswith("principal components")},
            },
            "random_projections": {
                "photo": image,
                **{
                    f"projection {seed + 1}, filtered": normalise(
                        random_projection(filtered, seed=seed)
                    )
                    for seed in range(3)
                },
            },
            "superpixels": {
                "photo, superpixels": boundaries(image, superpixels),
                **{k: v for k, v in seen.items() if k.startswith("superpixel means")},
            },
        }
        if self.hard is not None:
            predicted = self.hard(image).argmax(1)
            figures["segmentation"] = {
                "photo": image,
                "features, filtered": normalise(pca(filtered)),
                "classes": label_colours(predicted),
                "over the photo": overlay(image, predicted),
            }
        return figures


def _pad_together(pictures: list[Tensor]) -> Tensor:
    """Stacks (1,3,H,W) of different sizes on white."""
    height, width = (max(p.shape[axis] for p in pictures) for axis in (2, 3))
    pad = torch.nn.functional.pad
    return torch.cat(
        [pad(p, (0, width - p.shape[3], 0, height - p.shape[2]), value=1.0) for p in pictures]
    )


def draw_sheets(
    figures: Figures, photos: list[Path], long_side: int, output: Path
) -> dict[str, Path]:
    """Writes one sheet a figure, one row a photo.

    Returns:
        The sheets' files by figure.
    """
    drawn = [figures(read_photo(p, long_side)) for p in track(photos, "drawing")]
    output.mkdir(parents=True, exist_ok=True)
    classes = () if figures.hard is None else figures.hard.class_names
    files = {}
    for figure in drawn[0]:
        columns = {
            title: _pad_together([d[figure][title] for d in drawn]) for title in drawn[0][figure]
        }
        files[figure] = output / f"{figure}.png"
        picture = sheet(columns, classes if figure == "segmentation" else ())
        Image.fromarray(picture).save(files[figure])
    return files


@hydra.main(config_path="../conf", config_name="figures", version_base="1.3")
@readable_errors
def main(cfg: DictConfig) -> None:
    """Draws and says where."""
    photos = find_photos([cfg.input] if isinstance(cfg.input, str) else list(cfg.input))
    figures = Figures(cfg.checkpoint, instantiate(cfg.superpixels), instantiate(cfg.guided_filter))
    for path in draw_sheets(figures, photos, cfg.long_side, Path(cfg.output)).values():
        print(path)
    if figures.hard is None:
        print("no segmentation.png: the checkpoint holds soft features only")


if __name__ == "__main__":
    main()
