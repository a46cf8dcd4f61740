"""What a user does with a photo, without a page."""

import numpy as np
import pytest

from softfeat.app.work import Marks, Work


def alphas(work: Work) -> np.ndarray:
    return work.layers().alphas


def test_clicks_are_on_the_photo(work: Work) -> None:
    work.click(24, 18)
    work.click(0, 35, include=False)
    assert work.marks == Marks(
        ((24.5 * 80 / 48, 18.5 * 60 / 36),), ((0.5 * 80 / 48, 35.5 * 60 / 36),)
    )
    assert work.shown_points() == ([(24.5, 18.5)], [(0.5, 35.5)])
    for x, y in ((48, 0), (0, 36), (-1, 0), (0, float("nan"))):
        with pytest.raises(ValueError, match="not on the photo of 48x36"):
            work.click(x, y)


def test_the_selection(work: Work) -> None:
    assert work.matte() is None
    work.click(24, 18)
    matte = work.matte()
    assert matte is not None
    assert (matte.shape, matte.dtype) == ((36, 48), np.float32)
    assert 0 <= matte.min() <= matte.max() <= 1
    assert work.matte() is matte  # computed once
    full = work.matte(preview=False)
    assert full is not None
    assert full.shape == (60, 80)
    assert work.cutout().photo.alpha is not None


def test_undo_and_clear(work: Work) -> None:
    work.undo()
    work.click(24, 18)
    one = work.marks
    work.click(2, 2, include=False)
    work.clear()
    work.clear()
    assert not work.marks
    assert work.matte() is None
    with pytest.raises(ValueError, match="nothing is selected"):
        work.cutout()
    work.undo()  # what was cleared is there again
    assert len(work.marks.exclude) == 1
    work.undo()
    assert work.marks == one
    work.undo()
    work.undo()
    assert not work.marks


def test_the_subject_can_be_refined(work: Work) -> None:
    work.choose_subject()
    subject = work.matte()
    assert subject is not None
    np.testing.assert_array_equal(subject, work.photo.select(preview=True).clip(0, 1))
    work.click(1, 1, include=False)
    assert work.marks.subject
    refined = work.matte()
    assert refined is not None
    assert refined[1, 1] < 0.5


def test_grow_and_feather(work: Work) -> None:
    work.click(24, 18)
    before = work.matte()
    work.grow = 8
    grown = work.matte()
    work.grow, work.feather = 0, 8
    soft = work.matte()
    assert before is not None
    assert grown is not None
    assert soft is not None
    assert grown.sum() > before.sum() or before.all()
    assert (soft >= 0).all()
    assert (soft <= 1).all()


def test_layers_are_shown_moved_and_renamed(layered: Work) -> None:
    keys = [entry.key for entry in layered.entries]
    assert len(keys) >= 2
    first, second = keys[:2]
    layered.show([first])
    assert [entry.shown for entry in layered.entries] == [key == first for key in keys]
    layered.move(first, "up")
    assert [entry.key for entry in layered.entries] == [second, first, *keys[2:]]
    layered.move(second, "down")  # it is the lowest already
    assert layered.entries[0].key == second
    layered.rename(first, "  the\x00 cat 猫 ")
    assert layered.names()[1] == "the cat 猫"
    with pytest.raises(ValueError, match="the name is empty"):
        layered.rename(first, " \x00")
    with pytest.raises(ValueError, match="choose a layer"):
        layered.rename(None, "a")


def test_solo_twice_shows_what_was_shown(layered: Work) -> None:
    keys = [entry.key for entry in layered.entries]
    layered.show(keys[1:])
    layered.solo(keys[0])
    assert [e.key for e in layered.entries if e.shown] == keys[:1]
    layered.solo(keys[1])
    assert [e.key for e in layered.entries if e.shown] == keys[1:2]
    layered.solo(keys[1])
    assert [e.key for e in layered.entries if e.shown] == keys[1:]


def test_the_order_is_that_of_the_list(layered: Work) -> None:
    before = alphas(layered)
    layered.move(layered.entries[0].key, "up")
    np.testing.assert_array_equal(alphas(layered)[:2], before[1::-1])


def test_a_selection_becomes_a_layer(layered: Work) -> None:
    before = alphas(layered)
    layered.click(24, 18)
    matte = layered.matte(preview=False)
    added = layered.add_selection()
    np.testing.assert_array_equal(alphas(layered)[-1], matte)
    np.testing.assert_allclose(alphas(layered).sum(0), 1, atol=1e-5)
    assert layered.names()[-1] == "selection 1"
    assert layered.preview(added)[0].shape == (36, 48)
    # another number of layers keeps it on top
    layered.use(layered.find_layers(2))
    assert layered.entries[-1] is added
    np.testing.assert_allclose(alphas(layered).sum(0), 1, atol=1e-5)
    layered.use(layered.find_layers(3))
    with pytest.raises(ValueError, match="only layers that you have added"):
        layered.remove(layered.entries[0].key)
    layered.remove(added.key)
    np.testing.assert_allclose(alphas(layered), before, atol=1e-6)


def test_the_latest_of_two_selections_wins(layered: Work) -> None:
    layered.click(24, 18)
    layered.add_selection()
    layered.add_selection()
    shares = alphas(layered)
    np.testing.assert_allclose(shares[-2], (1 - shares[-1]) * shares[-1], atol=1e-6)
    assert layered.names()[-2:] == ["selection 1", "selection 2"]


def test_nothing_without_layers(work: Work) -> None:
    work.click(24, 18)
    for function in (work.add_selection, work.layers):
        with pytest.raises(ValueError, match="no layers yet"):
            function()
    work.clear()
    with pytest.raises(ValueError, match="nothing is selected"):
        work.add_selection()
