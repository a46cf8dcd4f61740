"""Draw figures like those of the paper: python -m src.figures input=... output=...

- `guided_filter.png`: F without and with the guided filter (Fig. 3)
- `random_projections.png`: random projections of F (Fig. 4)
- `superpixels.png`: superpixels and their mean features (Fig. 5)
- `segmentation.png`: classes (Fig. 8), for a checkpoint of hard segmentation only
- `layers.png`: superpixels, F and soft layers

The photos are those of `input`. With `data`, they are taken from a labelled split, sorted by pair
AUC: the worst, the best, and evenly spaced ones between. The true classes are then drawn too.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.progress import track
from torch import Tensor

from softfeat.checks import one_of, whole
from softfeat.commands.cli import command
from softfeat.commands.data_config import data_config, keys_below
from softfeat.data.datamodule import SPLITS, SegmentationData
from softfeat.data.layouts import Record
from softfeat.data.records import read_record, resize_label
from softfeat.imaging.convert import eight_bits, ids_tensor, to_float, to_tensor
from softfeat.imaging.drawing import boundaries, label_colours, overlay, save_picture, sheet
from softfeat.imaging.images import read_image, resize_image
from softfeat.imaging.photo import Photo
from softfeat.imaging.photo_files import find_photos
from softfeat.imaging.slic import Superpixels
from softfeat.matting.colours import layer_colours
from softfeat.matting.soft_segmentation import soft_segment
from softfeat.metrics.pair_auc import pair_auc
from softfeat.models.checkpoints import checkpoint_file, read_checkpoint
from softfeat.models.extractor import Extractor, extractor_of
from softfeat.models.photo_features import features_of
from softfeat.names import printable
from softfeat.ops.pca import normalise, pca, random_projection
from softfeat.training.callbacks.guided_filter import GuidedFilter
from softfeat.training.callbacks.pictures import feature_columns
from softfeat.training.hard_segmentation import load_hard_segmentation
from softfeat.training.soft_features import SoftFeatureModule


def with_long_side(photo: NDArray[np.uint8], long_side: int) -> NDArray[np.uint8]:
    """Resize a photo.

    Args:
        photo: Photo (h,w,3) uint8 RGB.
        long_side: New length of the longer side, in pixels.

    Returns:
        Photo (H,W,3) uint8 RGB.
    """
    height, width = photo.shape[:2]
    scale = long_side / max(height, width)
    return resize_image(photo, (max(1, round(height * scale)), max(1, round(width * scale))))


class Figures:
    """Drawing of all figures of a photo.

    Args:
        checkpoint: Checkpoint of soft features or of hard segmentation, see `read_checkpoint`.
        superpixels: Parameters of the superpixel maps.
        guided_filter: Filter of the feature maps.
        layers: Number of soft layers of each photo. 0 leaves out the layers.
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
        self.superpixels = superpixels
        self.guided_filter = guided_filter
        self.layers = layers

    @torch.no_grad()
    def __call__(
        self, photo: NDArray[np.uint8], label: NDArray[np.uint8] | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Draw the figures of a photo.

        Args:
            photo: Photo (H,W,3) uint8.
            label: True classes (H,W) with the ids of the head. None leaves them out.

        Returns:
            Pictures (1,3,H,W) in [0,1] of each figure, by title.
        """
        image = to_tensor(photo)
        superpixels = ids_tensor(self.superpixels(photo))
        features = self.extractor(image)
        filtered = self.guided_filter(features, image)
        columns = feature_columns(features, filtered, superpixels)
        figures = {
            "guided_filter": {
                "photo": image,
                **{k: v for k, v in columns.items() if k.startswith("principal components")},
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
                **{k: v for k, v in columns.items() if k.startswith("superpixel means")},
            },
        }
        if self.hard is not None:
            predicted = self.hard(image).argmax(1)
            figures["segmentation"] = {
                "photo": image,
                "features, filtered": normalise(pca(filtered)),
                **({} if label is None else {"truth": label_colours(ids_tensor(label))}),
                "classes": label_colours(predicted),
                "over the photo": overlay(image, predicted),
            }
        if self.layers:
            maps = features_of(self.extractor, photo)
            backend = self.superpixels.backend
            result = soft_segment(to_float(photo, np.float64), maps, self.layers, backend=backend)
            figures["layers"] = {
                "photo, superpixels": boundaries(image, ids_tensor(result.superpixels)),
                "features": to_tensor(result.features).float(),
                # All photos need the same columns. Layers that a photo lacks stay white.
                **{f"layer {k + 1}": torch.ones_like(image) for k in range(self.layers)},
                **{
                    f"layer {k}": to_tensor(layer)
                    for k, layer in enumerate(_on_grey(photo, result.alphas), 1)
                },
            }
        return figures


def _on_grey(photo: NDArray[np.uint8], alphas: NDArray[np.float32]) -> NDArray[np.float32]:
    """Draw the layers (K,H,W) of a photo in their own colours over grey, (K,H,W,3) in [0,1]."""
    colours = to_float(eight_bits(layer_colours(Photo(photo), alphas)))
    return colours * alphas[..., None] + 0.85 * (1 - alphas[..., None])


def spread_by_score(
    extractor: Extractor, data: SegmentationData, count: int
) -> tuple[list[Record], list[str]]:
    """Choose photos of the test split, evenly spaced in the ranking by pair AUC.

    Args:
        extractor: Extractor whose features are scored.
        data: Labelled photos.
        count: Maximum number of photos.

    Returns:
        Photos from the lowest to the highest score, and a text with the score of each.

    Raises:
        ValueError: If no photo has a score, which needs superpixels of two classes.
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
        raise ValueError(
            "no photo of the split has superpixels of two classes: choose another split="
        )
    scored.sort()
    ranks = np.linspace(0, len(scored) - 1, min(count, len(scored))).round().astype(int)
    selection = [scored[rank] for rank in ranks]
    records = {str(record.image): record for record in data.records(data.test_split)}
    texts = [f"pair AUC {score:.3f}" for score, _ in selection]
    return [records[path] for _, path in selection], texts


def _pad_together(pictures: list[Tensor]) -> Tensor:
    """Stack pictures (1,3,H,W) of different sizes, padded with white."""
    height = max(picture.shape[2] for picture in pictures)
    width = max(picture.shape[3] for picture in pictures)
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
    """Write a sheet for each figure, with a row for each photo.

    Args:
        figures: Drawing of the figures of a photo.
        photos: Files, or records whose labels have the classes of the head.
        long_side: Longer side of the photos, in pixels.
        output: Folder of the sheets. It is created if necessary.
        texts: Text in the row of each photo. If empty, there are none.

    Returns:
        File of each sheet, by the name of the figure.
    """
    drawn = []
    for one in track(photos, "drawing"):
        if isinstance(one, Record):
            image, label = read_record(one)
            photo = with_long_side(image, long_side)
            drawn.append(figures(photo, resize_label(label, (photo.shape[0], photo.shape[1]))))
        else:
            drawn.append(figures(with_long_side(read_image(one), long_side)))
    output.mkdir(parents=True, exist_ok=True)
    classes = () if figures.hard is None else figures.hard.class_names
    files = {}
    for figure in drawn[0]:
        columns = {
            title: _pad_together([d[figure][title] for d in drawn]) for title in drawn[0][figure]
        }
        files[figure] = output / f"{figure}.png"
        picture = sheet(columns, classes if figure == "segmentation" else (), texts)
        save_picture(picture, files[figure])
    return files


@command("figures", text=("input", "output", "checkpoint", "data.root", "data.cache_dir"))
def main(cfg: DictConfig) -> None:
    """Write the sheets, and print their files."""
    from_data = cfg.get("data") is not None
    if (cfg.input is not None) == from_data:
        raise ValueError("give either input=PHOTO_OR_FOLDER, or data=NAME data.root=FOLDER")
    whole("count", cfg.count, 1)
    whole("seed", cfg.seed, 0)
    whole("long_side", cfg.long_side, 32, 16384)
    whole("layers", cfg.layers, 0, 40)
    one_of("split", cfg.split, SPLITS)
    photos: Sequence[Path | Record]
    texts: list[str] = []
    figures = Figures(
        cfg.checkpoint, instantiate(cfg.superpixels), instantiate(cfg.guided_filter), cfg.layers
    )
    if not from_data:
        photos = find_photos([cfg.input] if isinstance(cfg.input, str) else list(cfg.input)).photos
    else:
        overrides = keys_below("data", list(HydraConfig.get().overrides.task))
        config = data_config(cfg.data, overrides, checkpoint_file(cfg.checkpoint))
        data = instantiate(config, test_split=cfg.split)
        records, texts = spread_by_score(figures.extractor, data, cfg.count)
        classes = list(data.layout.class_names)
        same_classes = figures.hard is not None and figures.hard.class_names == classes
        photos = records if same_classes else [record.image for record in records]
    for path in draw_sheets(figures, photos, cfg.long_side, Path(cfg.output), texts).values():
        print(printable(str(path)))
    if figures.hard is None:
        print("no segmentation.png: the checkpoint contains soft features only")


if __name__ == "__main__":
    main()
