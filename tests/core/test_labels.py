import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendfuse.core.labels import (
    LABEL_VALUE_BYTES_MAX,
    LabelInvalid,
    label_name,
    label_value,
    subject_of,
    subject_values,
)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("acme", "acme"),
        ("  acme\t", "acme"),
        ("Acme", "Acme"),
        ("cafe\u0301", "caf\u00e9"),
        ("a b", "a b"),
        ("世" * 42, "世" * 42),
        ("x" * 128, "x" * 128),
    ],
)
def test_a_value_is_stored_trimmed_in_nfc_and_case_sensitive(text: str, stored: str) -> None:
    assert label_value("user", text) == stored


@pytest.mark.parametrize(
    "text", ["", "   ", "x" * 129, "世" * 43, "a\x00b", "a\nb", "a\x7fb", "a\u0085b", "a\ud800b", "\udfff"]
)
def test_a_value_that_is_empty_long_or_has_control_characters_is_invalid(text: str) -> None:
    with pytest.raises(LabelInvalid, match="user"):
        label_value("user", text)


texts = st.lists(st.integers(0, 0x10FFFF).map(chr) | st.sampled_from("a \t\x00\x85é\u0301\ud800"), max_size=140).map(
    "".join
)


@given(texts)
def test_every_text_is_either_invalid_or_stored_in_a_form_that_stays(text: str) -> None:
    try:
        stored = label_value("user", text)
    except LabelInvalid:
        return
    assert 1 <= len(stored.encode()) <= LABEL_VALUE_BYTES_MAX
    assert label_value("user", stored) == stored


@pytest.mark.parametrize("text", ["team", "a", "A-1.b_c", "x" * 64])
def test_a_tag_name_of_the_alphabet_is_valid(text: str) -> None:
    assert label_name(text) == text


@pytest.mark.parametrize("text", ["", "x" * 65, "a b", "a=b", "a,b", "é", "a\n"])
def test_any_other_tag_name_is_invalid(text: str) -> None:
    with pytest.raises(LabelInvalid):
        label_name(text)


labels = st.dictionaries(st.sampled_from(["user", "organization", "team"]), st.text('ab",', max_size=4))


@given(labels, labels)
def test_two_calls_share_a_subject_only_when_all_its_labels_are_equal(one: dict[str, str], two: dict[str, str]) -> None:
    each = ("organization", "user")
    same = all(one.get(name, "") == two.get(name, "") for name in each)
    assert (subject_of(one, each) == subject_of(two, each)) is same
    assert subject_values(subject_of(one, each)) == tuple(one.get(name, "") for name in each)


def test_the_subject_of_a_limit_over_all_calls_is_empty() -> None:
    assert subject_of({"user": "u1"}, ()) == "[]"


def test_values_cannot_be_written_so_that_they_look_like_another_subject() -> None:
    assert subject_of({"a": 'x","y', "b": ""}, ("a", "b")) != subject_of({"a": "x", "b": "y"}, ("a", "b"))
