import pytest

from softfeat.tables import print_table


def test_names_with_markup_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[/a]", {"iou/[/red]": 0.5, "[bold]x": "[/b]"})
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("[/a]", "iou/[/red]", "[bold]x", "[/b]"))
