"""The config of one gateway as a document: what takes its place, and what does not."""

import logging
from pathlib import Path

import pytest

from spendfuse.cli.configs import ServedConfig
from spendfuse.core.errors import ConfigInvalid

FILE = """
providers: {openai: {api_key: sk-provider}}
models: {gpt-4o-mini: openai/gpt-4o-mini}
limits: {company: {usd: 5, per: month}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "spendfuse.yaml"
    path.write_text(FILE)
    return path


def test_every_process_makes_the_same_config_of_a_document_without_its_file(path: Path) -> None:
    parent, worker = ServedConfig(path), ServedConfig(path)
    path.write_text(FILE.replace("usd: 5", "usd: 7"))
    newer = parent.reread(parent.document)
    path.unlink()
    assert worker.config_of(newer) == parent.config_of(newer)
    assert parent.config_of(newer).limits[0].amount == 7 * 10**9
    assert worker.config_of(FILE).limits[0].amount == 5 * 10**9


def test_what_a_litellm_file_includes_is_part_of_its_document(tmp_path: Path) -> None:
    path, included = tmp_path / "litellm.yaml", tmp_path / "models.yaml"
    path.write_text("include: [models.yaml]\nlitellm_settings: {max_budget: 5, budget_duration: 1mo}\n")
    included.write_text("model_list: [{model_name: one, litellm_params: {model: openai/gpt-4o, api_key: sk-x}}]")
    served = ServedConfig(path)
    included.unlink()
    assert [*served.config_of(served.document).models] == ["one"]
    assert [*ServedConfig.config_of(served, served.document + "\n").models] == ["one"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (FILE + "\nstore: sqlite:///other.db", "store: is another than the one served from"),
        (FILE + "\nspool: elsewhere", "spool: is another than"),
        (FILE.replace("openai/gpt-4o-mini", "openai/no-such-model"), None),
        (FILE.replace("gpt-4o-mini:", "gpt-4.1-odd: openai/odd, gpt-4o-mini:"), 'models."gpt-4.1-odd": model "odd"'),
        ("limits: {}", "models: is empty"),
        ("models: {", "not valid YAML"),
    ],
)
def test_a_file_that_is_worse_than_what_is_served_is_refused_with_its_key_path(
    path: Path, changed: str, told: str | None
) -> None:
    served = ServedConfig(path)
    path.write_text(changed)
    with pytest.raises(ConfigInvalid) as raised:
        served.reread(served.document)
    assert str(raised.value).startswith(f"{path}:")
    assert told is None or told in str(raised.value)
    assert served.config_of(served.document).models.keys() == {"gpt-4o-mini"}


def test_a_target_without_a_price_beside_one_with_a_price_is_no_reason_to_refuse(path: Path) -> None:
    served = ServedConfig(path)
    path.write_text(FILE.replace("openai/gpt-4o-mini}", "{targets: [openai/gpt-4o-mini, openai/odd]}}"))
    assert len(served.config_of(served.reread(served.document)).models["gpt-4o-mini"].targets) == 2


def test_a_reload_tells_the_warnings_that_it_brings_and_not_those_of_before(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(FILE.replace("sk-provider", "os.environ/SPENDFUSE_NO_SUCH"))
    served = ServedConfig(path)
    with caplog.at_level(logging.WARNING):
        again = served.reread(served.document)
        assert "config_warned" not in caplog.text
        path.write_text(path.read_text() + "\n")
        path.write_text(
            path.read_text().replace("{openai:", "{anthropic: {api_key: os.environ/SPENDFUSE_NONE}, openai:")
        )
        served.reread(again)
    assert caplog.text.count("config_warned") == 1
    assert "SPENDFUSE_NONE" in caplog.text


def test_zero_config_has_no_file_to_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-provider")
    served = ServedConfig(None)
    with pytest.raises(ConfigInvalid, match="no file to read anew"):
        served.reread(served.document)
