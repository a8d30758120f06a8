"""Typed config: YAML in, one frozen value out.

Failure policy: closed. A config is used whole or not at all; `ConfigInvalid` lists every problem with its file and key
path.
"""

from spendfuse.config.loading import load, parse, read_text, read_tree
from spendfuse.config.schema import json_schema
from spendfuse.config.secret import CLIENT_KEY_PREFIX, Secret
from spendfuse.config.values import (
    Config,
    ConfiguredKey,
    DialectName,
    LabelSource,
    OnDisconnect,
    PostgresStore,
    Provider,
    PublicModel,
    SqliteStore,
    Store,
    Target,
    Timeouts,
)

__all__ = [
    "CLIENT_KEY_PREFIX",
    "Config",
    "ConfiguredKey",
    "DialectName",
    "LabelSource",
    "OnDisconnect",
    "PostgresStore",
    "Provider",
    "PublicModel",
    "Secret",
    "SqliteStore",
    "Store",
    "Target",
    "Timeouts",
    "json_schema",
    "load",
    "parse",
    "read_text",
    "read_tree",
]
