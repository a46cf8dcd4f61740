import pytest
from PIL import ExifTags, Image

from softfeat.imaging.metadata import Metadata, metadata_of, orientation_of

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
    b'xmlns:dc="http://purl.org/dc/elements/1.1/"><rdf:Description><dc:rights><rdf:Alt>'
    b'<rdf:li xml:lang="x-default">Free</rdf:li></rdf:Alt></dc:rights><dc:creator><rdf:Seq>'
    b"<rdf:li>Ann</rdf:li><rdf:li>Bob</rdf:li></rdf:Seq></dc:creator></rdf:Description></rdf:RDF>"
    b"</x:xmpmeta>"
)


def exif(**values: object) -> Image.Exif:
    made = Image.Exif()
    for name, value in values.items():
        made[ExifTags.Base[name]] = value
    return made


@pytest.mark.parametrize(
    ("info", "tags", "expected"),
    [
        ({}, {}, Metadata()),
        ({"dpi": (300, 299.9994)}, {}, Metadata(dpi=(300, 300))),
        ({"dpi": (0, 0)}, {"XResolution": 240.0, "YResolution": 240.0}, Metadata(dpi=(240, 240))),
        (
            {},
            {"XResolution": 100.0, "YResolution": 50.0, "ResolutionUnit": 3},
            Metadata(dpi=(254, 127)),
        ),
        ({"dpi": (float("nan"), 72)}, {}, Metadata()),
        ({"dpi": "often"}, {"XResolution": "many", "YResolution": 1.0}, Metadata()),
        (
            {"Copyright": "text", "Author": "text"},
            {"Copyright": "\xc2\xa9 J\xc3\xbcrgen\0editor ", "Artist": "  "},
            Metadata(copyright="© Jürgen editor", artist="text"),
        ),
        ({"xmp": XMP}, {}, Metadata(copyright="Free", artist="Ann, Bob")),
        ({"xmp": XMP[:-20]}, {}, Metadata()),
        ({"xmp": b"<!DOCTYPE a [<!ENTITY b 'c'>]>" + XMP}, {}, Metadata()),
    ],
)
def test_metadata(info: dict, tags: dict, expected: Metadata) -> None:
    try:
        assert metadata_of(info, exif(**tags)) == expected
    except ValueError:  # EXIF that is no EXIF is reported by the reader
        assert "many" in tags.values()


@pytest.mark.parametrize(
    ("value", "orientation"), [(6, 6), (0, 1), (9, 1), (65535, 1), ("6", 1), (None, 1)]
)
def test_orientations(value: object, orientation: int) -> None:
    assert orientation_of(exif(Orientation=value)) == orientation
