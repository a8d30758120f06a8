"""Where commands get their config from: our YAML, a LiteLLM YAML as it is, or none at all (`zero_config`).

Failure policy: a file that was named has to be there and right. Only where none was named and none stands at the
default place is there a config without a file.
"""

import os
from pathlib import Path

from spendfuse.cli.options import DEFAULT_CONFIG
from spendfuse.config import Config, load, parse
from spendfuse.config.document import read_yaml
from spendfuse.core.errors import ConfigInvalid
from spendfuse.litellm_config import is_litellm, translate


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
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return load(path)  # Which says what is wrong with the file.
    tree, _ = read_yaml(text.removeprefix("\N{BYTE ORDER MARK}"), str(path))
    if is_litellm(tree):
        return translate(text, source=str(path), folder=path.parent, accept_unenforced=accept_unenforced).config
    return parse(text, source=str(path), folder=path.parent)
