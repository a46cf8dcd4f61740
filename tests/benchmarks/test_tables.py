"""How results are shown."""

import pytest

from benchmarks.tables import markdown, ratio_rows, show

RESULT = {
    "title": "Scores",
    "rows": [{"way": "ours", "score": 0.5}],
    "ratios": {"a / b": {"median": 3.14, "q1": 2.0, "q3": 4.0}, "memory": {"median": 9.0}},
    "settings": {"rounds": 3},
    "machine": {"device": "CPU"},
}
SETS = ("camvid", "idd_lite", "stanford_background", "msrc_v2", "clothing_coparsing", "nyuv2",
        "voc2012", "coco_objects", "pascal_person_part", "pets_oxford", "hair_figaro")  # fmt: skip


def test_the_header_of_ratios_names_their_statistics() -> None:
    text = markdown(RESULT)
    assert "| ratio | median | lower quartile | upper quartile |" in text
    assert "| a / b | 3.1 | 2.0 | 4.0 |" in text
    assert "| memory | 9.0 |  |  |" in text
    assert text.endswith("rounds: 3; device: CPU.\n")


def test_ratios_of_several_kinds_share_a_table() -> None:
    (rounds, quality) = ratio_rows(
        [
            ({"ratio": "time"}, {"median": 2.0, "min": 1.0, "max": 3.0}),
            ({"ratio": "quality"}, {"median": 4.0, "min": None, "max": 5.0}),
        ]
    )
    assert rounds == {"ratio": "time", "median": "2.0", "min": "1.0", "max": "3.0"}
    assert quality == {"ratio": "quality", "median": "4.0", "min": "not reached", "max": "5.0"}
    assert ratio_rows([]) == []


def printed(
    result: dict[str, object], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    monkeypatch.setenv("COLUMNS", "240")
    show(RESULT | result)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    return [" ".join(line.replace("│", " ").replace("┃", " ").split()) for line in lines]


def test_a_wide_table_is_transposed_on_the_terminal(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = ("general", "untrained network", "Lab")
    rows = [
        {"features": way, **{name: f"0.{number}{i:02}" for i, name in enumerate(SETS)}}
        for number, way in enumerate(networks)
    ]
    lines = printed({"rows": rows}, capsys, monkeypatch)
    assert "features general untrained network Lab" in lines
    for i, name in enumerate(SETS):
        assert f"{name} 0.0{i:02} 0.1{i:02} 0.2{i:02}" in lines  # on one line, nothing is cut


def test_other_tables_are_printed_as_they_are(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = [{"way": f"a way of computing something, number {i}", "ms": i} for i in range(30)]
    tables = {"Long": long, "Text [bold]": [{"text": "[red]" + "word " * 40}]}
    lines = printed({"tables": tables}, capsys, monkeypatch)
    assert "way score" in lines
    assert "ours 0.5" in lines
    assert "a way of computing something, number 29 29" in lines
    assert "a / b 3.1 2.0 4.0" in lines
    assert any("[red]word" in line for line in lines)  # square brackets are no markup
