"""Where commands get their config from: our YAML, a LiteLLM YAML as it is, or none at all (`zero_config`).

Failure policy: a file that was named has to be there and right. Only where none was named and none stands at the
default place is there a config without a file. A gateway that serves goes on with the config it has, where its file has
become one that can't be used.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from spendfuse.cli.options import DEFAULT_CONFIG
from spendfuse.config import Config, parse, read_text
from spendfuse.config.document import read_yaml
from spendfuse.config.problems import path_text
from spendfuse.config.schema import keys_known_at
from spendfuse.core.errors import ConfigInvalid
from spendfuse.litellm_config import is_litellm, to_yaml, translate
from spendfuse.litellm_config.files import read_file

logger = logging.getLogger("spendfuse.config")


class ServedConfig:
    """The config of one gateway, in all its processes and through its reloads.

    From process to process it goes as a document: the text of its file, whole. Each process makes the config of it by
    itself, as a config holds secrets of the environment; that is the same for all of them.
    """

    def __init__(self, path: Path | None, *, accept_unenforced: bool = False) -> None:
        """Read it; the arguments are those of `load_config`.

        Raises:
            ConfigInvalid: as `load_config`.
        """
        self._accept_unenforced = accept_unenforced
        self._path = None if _has_no_file(path) else path or DEFAULT_CONFIG
        if self._path is None:
            self.document, self.config = "", load_config(None)
        else:
            self.document, self.config = self._read(self._path)
        self._newest = self.document, self.config
        """A process that is forked from this one need not make it again."""

    def config_of(self, document: str) -> Config:
        """The config that a document says.

        Raises:
            ConfigInvalid: it can't be used here, which `reread` has seen before.
        """
        known, config = self._newest
        if self._path is not None and document != known:
            config = _parse(document, self._path, accept_unenforced=self._accept_unenforced)
            self._newest = document, config
        return config

    def reread(self, document: str) -> str:
        """The document that takes the place of this one: what the file says now. Logs the warnings it brings.

        Raises:
            ConfigInvalid: it can't be used, or only after a restart, or there is no file.
        """
        served = self.config_of(document)
        if self._path is None:
            raise ConfigInvalid(f"{served.source}: there is no file to read anew; write {DEFAULT_CONFIG} and restart")
        newer, config = self._read(self._path)
        if config.store != served.store:
            raise ConfigInvalid(
                f"{self._path}: store: is another than the one served from, {served.store.where}: "
                "a reload can't change it, restart for that"
            )
        if config.spool != served.spool:
            raise ConfigInvalid(f"{self._path}: spool: is another than {served.spool}: restart for that")
        _raise_worse(config, served)
        for warning in config.warnings:
            if warning not in served.warnings:
                logger.warning("config_warned warning=%r", warning)
        self._newest = newer, config
        return newer

    def _read(self, path: Path) -> tuple[str, Config]:
        text = read_text(path)
        config = _parse(text, path, accept_unenforced=self._accept_unenforced)
        whole = _whole(text, path)
        if whole != text:
            # What it includes may have changed just now: all processes serve what this one has validated.
            config = _parse(whole, path, accept_unenforced=self._accept_unenforced)
        return whole, config


def _raise_worse(config: Config, served: Config) -> None:
    """Refuse what a start lets pass, as there is a config already that is better.

    Raises:
        ConfigInvalid: it has no models, as a file has that is just being written, or one without a price that the
            served config does not have, or has a price for.
    """
    # Reads prices, which no command needs to load a config.
    from spendfuse.cli.model_prices import unpriced_models

    if served.models and not config.models:
        raise ConfigInvalid(f"{config.source}: models: is empty, so that nothing would be served")
    unpriced = unpriced_models(config)
    before = unpriced_models(served) if unpriced else {}
    found = [
        f"{config.source}: {path_text(('models', name))}: {why}" for name, why in unpriced.items() if name not in before
    ]
    if found:
        raise ConfigInvalid("\n".join(found))


def load_config(path: Path | None, *, accept_unenforced: bool = False) -> Config:
    """The config that a gateway serves. Without `accept_unenforced` a LiteLLM config with a limit that would not hold
    here is refused.

    Raises:
        ConfigInvalid: it can't be used; or there is no file, and no provider's key in the environment.
    """
    if _has_no_file(path):
        # Reads prices, which no other config needs to be read.
        from spendfuse.zero_config import zero_config

        return zero_config(os.environ, Path())
    return _read(path or DEFAULT_CONFIG, accept_unenforced=accept_unenforced)


def load_drill_config(path: Path | None, *, accept_unenforced: bool = False) -> Config:
    """The same for a drill, which calls no provider: zero config needs none of their keys, and is then that of the two
    whose APIs clients speak.

    Raises:
        ConfigInvalid: as `load_config`.
    """
    if not _has_no_file(path):
        return _read(path or DEFAULT_CONFIG, accept_unenforced=accept_unenforced)
    from spendfuse.zero_config import has_provider, zero_config

    pretended = {"OPENAI_API_KEY": "drill", "ANTHROPIC_API_KEY": "drill"}
    return zero_config(os.environ if has_provider(os.environ) else pretended, Path())


def load_store_config(path: Path | None, *, makes_store: bool = False) -> Config:
    """The config for a command that works on the store only: it needs no provider. With `makes_store` the command is of
    use before there is a store.

    Raises:
        ConfigInvalid: it can't be used; or there is neither a file nor a store.
    """
    if not _has_no_file(path):
        # What a limit does here is not at stake: whoever serves this config has been told.
        return _read(path or DEFAULT_CONFIG, accept_unenforced=True)
    from spendfuse.zero_config import zero_store

    config = zero_store(Path())
    if config.store.is_there:
        return config
    if makes_store:
        return load_config(path)
    raise ConfigInvalid(
        f"no config file is named, and there is neither {DEFAULT_CONFIG} nor {Path(config.store.where).name}"
    )


def load_config_if_any(path: Path | None) -> Config | None:
    """As `load_config`; None where there is no file, no store and no provider's key.

    Raises:
        ConfigInvalid: it can't be used.
    """
    if not _has_no_file(path):
        return _read(path or DEFAULT_CONFIG, accept_unenforced=True)
    from spendfuse.zero_config import has_provider, zero_config, zero_store

    if has_provider(os.environ):
        return zero_config(os.environ, Path())
    config = zero_store(Path())
    return config if config.store.is_there else None


def _has_no_file(path: Path | None) -> bool:
    # A link that leads nowhere is meant to be a config: reading it fails.
    return path is None and not os.path.lexists(DEFAULT_CONFIG)


def _read(path: Path, *, accept_unenforced: bool) -> Config:
    return _parse(read_text(path), path, accept_unenforced=accept_unenforced)


def _parse(text: str, path: Path, *, accept_unenforced: bool) -> Config:
    """The config that a file with this text is."""
    if is_litellm(_tree(text, path)):
        return translate(text, source=str(path), folder=path.parent, accept_unenforced=accept_unenforced).config
    return parse(text, source=str(path), folder=path.parent)


def _whole(text: str, path: Path) -> str:
    """The text with what a LiteLLM config includes from other files."""
    if "include" not in text or not is_litellm(_tree(text, path)):
        return text
    tree = read_file(text, str(path), path.parent).tree
    # An included file may have a key that means nothing to LiteLLM, by which the whole would pass for a config of ours.
    return to_yaml({key: value for key, value in tree.items() if key not in keys_known_at(())})


def _tree(text: str, path: Path) -> Mapping[str, object]:
    tree, _ = read_yaml(text.removeprefix("\N{BYTE ORDER MARK}"), str(path))
    return tree
