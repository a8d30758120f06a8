"""The reference of errors says what the code does."""

from errors_page import MEANINGS, PAGE, page

from spendfuse.core.refusals import Code


def test_every_refusal_has_its_meaning() -> None:
    assert set(MEANINGS) == set(Code)


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == page()
