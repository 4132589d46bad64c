"""Counts in words."""

import pytest

from fastliver.words import counted


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 slices"), (1, "1 slice"), (2, "2 slices"), (1000, "1,000 slices")]
)
def test_one_alone_is_no_plural(number, words) -> None:
    assert counted(number, "slice") == words


def test_a_word_that_ends_in_s() -> None:
    assert [counted(number, "process") for number in (1, 2)] == ["1 process", "2 processes"]
