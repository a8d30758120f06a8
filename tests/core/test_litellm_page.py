"""The reference of LiteLLM's keys says what the code does with them."""

import re

import pytest
from litellm_page import (
    ENVIRON,
    HONOURED,
    LIMITS,
    PAGE,
    STOPS,
    UNREACHED,
    WARNS,
    Honoured,
    file_of,
    ignored,
    page,
    read,
    read_entry,
    stops,
    unreached,
)

from spendfuse.core.errors import ConfigInvalid
from spendfuse.litellm_config import translate
from spendfuse.litellm_config.origins import ORIGINS


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == page()


@pytest.mark.parametrize("honoured", HONOURED, ids=lambda one: one.key)
def test_a_key_that_is_called_honoured_is_neither_warned_about_nor_refused(honoured: Honoured) -> None:
    assert f"{honoured.key.rpartition('.')[2]}: " in honoured.example
    found = read_entry(honoured.example)
    assert "m" in found.config.models
    assert found.warnings == ()


@pytest.mark.parametrize("fragment", LIMITS)
def test_what_is_called_a_limit_is_enforced(fragment: str) -> None:
    limits = read(file_of(fragment)).config.limits
    assert limits
    assert all(one.is_enforced for one in limits)


@pytest.mark.parametrize("fragment", STOPS)
def test_what_is_said_to_stop_the_start_does_so_unless_it_is_accepted(fragment: str) -> None:
    with pytest.raises(ConfigInvalid):
        read(file_of(fragment))
    ((path, why),) = stops(fragment)
    accepted = translate(file_of(fragment), environ=ENVIRON, accept_unenforced=True)
    assert f"{path}: is NOT ENFORCED: {why}" in accepted.warnings


@pytest.mark.parametrize("fragment", WARNS)
def test_what_is_said_to_be_warned_about_is_so_once(fragment: str) -> None:
    assert len(ignored(fragment)) == len(read(file_of(fragment)).warnings) == 1


@pytest.mark.parametrize("entry", UNREACHED)
def test_an_entry_that_is_called_not_served_is_not(entry: str) -> None:
    assert unreached(entry)
    assert list(read_entry(entry).config.models) == ["first"]


def test_every_provider_has_its_line() -> None:
    table = PAGE.read_text().partition("## Providers")[2].partition("## ")[0]
    firsts = [re.findall(r"`([\w-]+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    assert [name for names in firsts for name in names] == list(ORIGINS)
