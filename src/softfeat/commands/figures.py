"""Sheets of photos in the manner of the paper's figures: python -m src.figures input=... output=...

`guided_filter.png`: F without and with the guided filter (Fig. 3); `random_projections.png`: F seen
from random directions (Fig. 4); `superpixels.png`: superpixels and their mean features (Fig. 5);
`segmentation.png`: classes (Fig. 8, for a checkpoint of hard segmentation); `layers.png`:
superpixels, F, and soft layers.

The photos are `input`, or with `data` some of a labelled split, by a rule and not by taste: sorted
by pair AUC, the worst, the best, and evenly between. Beside their classes stand the true ones.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import hydra
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image
from rich.progress import track
from torch import Tensor

from softfeat.commands.cli import readable_errors
from softfeat.commands.data_config import data_config, keys_below
from softfeat.data.datamodule import SegmentationData
from softfeat.data.layouts import Record
from softfeat.data.records import read_classes, resize_label
from softfeat.imaging.drawing import boundaries, label_colours, overlay, sheet
from softfeat.imaging.images import find_photos, read_image, resize_image
from softfeat.imaging.slic import Superpixels
from softfeat.matting.layers import layer_colours
from softfeat.matting.photo import features_of
from softfeat.matting.soft_segmentation import soft_segment
from softfeat.metrics.pair_auc import pair_auc
from softfeat.models.checkpoints import checkpoint_file, read_checkpoint
from softfeat.models.extractor import Extractor, extractor_of
from softfeat.ops.pca import normalise, pca, random_projection
from softfeat.training.callbacks.guided_filter import GuidedFilter
from softfeat.training.callbacks.pictures import feature_columns
from softfeat.training.hard_segmentation import load_hard_segmentation
from softfeat.training.soft_features import SoftFeatureModule


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
        layers: soft layers of each photo; 0 for none.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        superpixels: Superpixels,
        guided_filter: GuidedFilter,
        layers: int = 5,
    ) -> None:
        content = read_checkpoint(checkpoint)
        self.extractor = extractor_of(content)
        self.hard = load_hard_segmentation(checkpoint) if "hard_segmentation" in content else None
        self.superpixels, self.guided_filter = superpixels, guided_filter
        self.layers = layers

    @torch.no_grad()
    def __call__(
        self, photo: NDArray[np.uint8], label: NDArray[np.uint8] | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Draws a photo.

        Args:
            photo: (H,W,3) uint8.
            label: (H,W), its true classes, if they are those of the head.

        Returns:
            For each figure its pictures (1,3,H,W) in [0,1] by title.
        """
        image = torch.tensor(photo.transpose(2, 0, 1).copy()).float()[None] / 255
        superpixels = _ids(self.superpixels(photo))
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
                **({} if label is None else {"truth": label_colours(_ids(label))}),
                "classes": label_colours(predicted),
                "over the photo": overlay(image, predicted),
            }
        if self.layers:
            maps, backend = features_of(self.extractor, photo), self.superpixels.backend
            found = soft_segment(photo / 255, maps, self.layers, backend=backend)
            figures["layers"] = {
                "photo, superpixels": boundaries(image, _ids(found.superpixels)),
                "features": _pictures(found.features),
                **{f"layer {k + 1}": torch.ones_like(image) for k in range(self.layers)},
                **{
                    f"layer {k}": _pictures(_on_grey(photo, alpha))
                    for k, alpha in enumerate(found.alphas, 1)
                },
            }
        return figures


def _ids(ids: NDArray[np.integer]) -> Tensor:
    return torch.from_numpy(ids.astype(np.int64))[None]


def _pictures(picture: NDArray) -> Tensor:
    return torch.from_numpy(picture.transpose(2, 0, 1).copy()).float()[None]


def _on_grey(photo: NDArray[np.uint8], alpha: NDArray) -> NDArray[np.float32]:
    """A layer in its own colours over grey, (H,W,3) in [0,1]."""
    image = photo.astype(np.float32) / np.float32(255)
    colours = layer_colours(image, alpha.astype(np.float32))
    return colours * alpha[..., None] + 0.85 * (1 - alpha[..., None])


def spread_by_score(
    extractor: Extractor, data: SegmentationData, count: int
) -> tuple[list[Record], list[str]]:
    """Photos of the test split, from the lowest to the highest pair AUC in even steps of rank.

    Returns:
        The photos, and a text with the score of each.

    Raises:
        ValueError: no photo has a score, which takes superpixels of two classes.
    """
    data.prepare_data([data.test_split])
    data.setup("test")
    module = SoftFeatureModule(extractor, num_superpixels=data.superpixels.count).eval()
    scored: list[tuple[float, str]] = []
    with torch.inference_mode():
        for batch in track(data.test_dataloader(), "scoring"):
            scores = pair_auc(*module.superpixel_features(batch))[0]
            pairs = zip(scores.tolist(), batch["path"], strict=True)
            scored += [pair for pair in pairs if not math.isnan(pair[0])]
    if not scored:
        raise ValueError("no photo of the split has superpixels of two classes")
    scored.sort()
    ranks = np.linspace(0, len(scored) - 1, min(count, len(scored))).round().astype(int)
    chosen = [scored[rank] for rank in ranks]
    records = {str(record.image): record for record in data.layout.records(data.test_split)}
    return [records[path] for _, path in chosen], [f"pair AUC {score:.3f}" for score, _ in chosen]


def _pad_together(pictures: list[Tensor]) -> Tensor:
    """Stacks (1,3,H,W) of different sizes on white."""
    height, width = (max(p.shape[axis] for p in pictures) for axis in (2, 3))
    pad = torch.nn.functional.pad
    return torch.cat(
        [pad(p, (0, width - p.shape[3], 0, height - p.shape[2]), value=1.0) for p in pictures]
    )


def draw_sheets(
    figures: Figures,
    photos: Sequence[Path | Record],
    long_side: int,
    output: Path,
    texts: Sequence[str] = (),
) -> dict[str, Path]:
    """Writes one sheet a figure, one row a photo, with a text in each row.

    Args:
        figures: draws a photo.
        photos: files, or records with labels of the head's classes.
        long_side: of the photos, in pixels.
        output: folder.
        texts: of the rows.

    Returns:
        The sheets' files by figure.
    """
    drawn = []
    for one in track(photos, "drawing"):
        if isinstance(one, Record):
            photo = read_photo(one.image, long_side)
            height, width = photo.shape[:2]
            drawn.append(figures(photo, resize_label(read_classes(one), (height, width))))
        else:
            drawn.append(figures(read_photo(one, long_side)))
    output.mkdir(parents=True, exist_ok=True)
    classes = () if figures.hard is None else figures.hard.class_names
    files = {}
    for figure in drawn[0]:
        columns = {
            title: _pad_together([d[figure][title] for d in drawn]) for title in drawn[0][figure]
        }
        files[figure] = output / f"{figure}.png"
        picture = sheet(columns, classes if figure == "segmentation" else (), texts)
        Image.fromarray(picture).save(files[figure])
    return files


@hydra.main(config_path="pkg://softfeat.conf", config_name="figures", version_base="1.3")
@readable_errors
def main(cfg: DictConfig) -> None:
    """Draws and says where."""
    of_data = cfg.get("data") is not None
    if (cfg.input is not None) == of_data:
        raise ValueError("give input=PHOTO_OR_FOLDER, or data=NAME data.root=FOLDER")
    if of_data and cfg.count < 1:
        raise ValueError(f"count={cfg.count}: choose 1 photo or more")
    photos: Sequence[Path | Record]
    texts: list[str] = []
    figures = Figures(
        cfg.checkpoint, instantiate(cfg.superpixels), instantiate(cfg.guided_filter), cfg.layers
    )
    if not of_data:
        photos = find_photos([cfg.input] if isinstance(cfg.input, str) else list(cfg.input))
    else:
        by_hand = keys_below("data", list(HydraConfig.get().overrides.task))
        config = data_config(cfg.data, by_hand, checkpoint_file(cfg.checkpoint))
        data = instantiate(config, test_split=cfg.split)
        records, texts = spread_by_score(figures.extractor, data, cfg.count)
        classes = list(data.layout.class_names)
        known = figures.hard is not None and figures.hard.class_names == classes
        photos = records if known else [record.image for record in records]
    for path in draw_sheets(figures, photos, cfg.long_side, Path(cfg.output), texts).values():
        print(path)
    if figures.hard is None:
        print("no segmentation.png: the checkpoint holds soft features only")


if __name__ == "__main__":
    main()
