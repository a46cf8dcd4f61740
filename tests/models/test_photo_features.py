import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from softfeat.imaging.images import resize_image
from softfeat.models.extractor import BottleneckExtractor, Extractor
from softfeat.models.photo_features import features_of


def test_the_network_sees_large_photos_small() -> None:
    torch.manual_seed(0)
    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)

    def enlarged(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        planes = [Image.fromarray(plane) for plane in maps[0].detach().numpy()]
        resized = [p.resize(size[::-1], Image.Resampling.BILINEAR) for p in planes]
        return torch.from_numpy(np.stack(resized))[None]

    def seen(extractor: Extractor, picture: np.ndarray) -> torch.Tensor:
        """Levels at the resolution of the finest level of the whole photo."""
        image = torch.tensor(picture.copy()).permute(2, 0, 1)[None] / 255
        pairs = zip(extractor.pyramid(image), extractor.pyramid(image.flip(3)), strict=True)
        return torch.cat([enlarged((a + b.flip(3)) / 2, (30, 45)) for a, b in pairs], 1)

    for widths in ([8], [8, 16]):
        extractor = BottleneckExtractor(widths=widths, blocks=[1] * len(widths), dim=8).eval()
        plain, reduced = seen(extractor, photo), seen(extractor, resize_image(photo, (30, 45)))
        for sides, mean in (([90, 200], plain), ([45, 90, 200], (plain + reduced) / 2)):
            expected = mean[0].permute(1, 2, 0)
            found = features_of(extractor, photo, sides)  # the photo is never enlarged
            np.testing.assert_allclose(found, expected, atol=1e-4)
    # With one level there is nothing between the level and F.
    extractor = BottleneckExtractor(widths=[8], blocks=[1], dim=8).eval()
    image = torch.tensor(photo).permute(2, 0, 1)[None] / 255
    both = (extractor(image) + extractor(image.flip(3)).flip(3)) / 2
    found = torch.from_numpy(features_of(extractor, photo)).permute(2, 0, 1)[None]
    found = interpolate(found, (60, 90), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, both.detach(), atol=1e-6, rtol=0)
