"""The config as the rest of the program sees it: frozen values, units last in names, money and prices as integers."""

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

from spendfuse.config.alerts import Alerting
from spendfuse.config.secret import Secret
from spendfuse.core.breakers import Breaker
from spendfuse.core.limits import Limit
from spendfuse.core.prices import Price


class DialectName(StrEnum):
    """The API that a provider speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class OnDisconnect(StrEnum):
    """What becomes of a call that is not streamed when its client leaves."""

    CANCEL = "cancel"
    """Close the upstream; the call is charged as of unknown fate."""
    FINISH = "finish"
    """Let the upstream finish; the call is settled exactly."""


class LabelSource(StrEnum):
    """Where a request may say its labels, besides its key."""

    HEADERS = "headers"
    BODY = "body"


@dataclass(frozen=True, slots=True)
class SqliteStore:
    """A ledger in one file; the path is absolute."""

    path: pathlib.Path

    @property
    def where(self) -> str:
        """The store for people."""
        return str(self.path)

    @property
    def is_there(self) -> bool:
        """Whether it exists, so that a command that only reads need not make one."""
        return self.path.exists()


@dataclass(frozen=True, slots=True)
class PostgresStore:
    """A ledger in a PostgreSQL database. `dsn` is its whole URL, which may hold a password; `where` never does."""

    dsn: Secret
    where: str

    @property
    def is_there(self) -> bool:
        """As for SQLite: whoever names a database has made it."""
        return True


Store = SqliteStore | PostgresStore


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Of one attempt, in seconds: to connect, to the answer's first byte, between two reads, in all."""

    connect_s: float = 10.0
    first_byte_s: float = 300.0
    read_s: float = 120.0
    total_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Provider:
    """Who serves models. `base_url` has no slash at its end. `vendor` is whose price list and model names it has.

    `api_key` is None where the environment lacks it, and where none was configured (`needs_api_key` tells which).
    `prices` are by the provider's model name, with `*` for any other. `allow_free`: a model without any known price is
    served at no price. `context_window`, `output_tokens_max` and `output_tokens_per_s_max` hold for its models.
    """

    name: str
    vendor: str
    dialect: DialectName
    base_url: str
    api_key: Secret | None = None
    needs_api_key: bool = True
    prices: Mapping[str, Price] = field(default_factory=dict[str, Price])
    allow_free: bool = False
    timeouts: Timeouts = Timeouts()
    cap_field: str = "max_tokens"
    takes_stream_options: bool = True
    pins_service_tier: bool = False
    context_window: int | None = None
    output_tokens_max: int | None = None
    output_tokens_per_s_max: int = 1_000

    def price_of(self, model: str) -> Price | None:
        """The configured price of one of its models; None leaves it to the price sheet."""
        return self.prices.get(model) or self.prices.get("*")


@dataclass(frozen=True, slots=True)
class Target:
    """A provider and its own name of a model. What the public model leaves open has been taken from the provider.

    `price` None leaves it to the price sheet; `context_window` and `output_tokens_max` None to the sheet of caps.
    `reference_tokens` bounds content by reference (a URL, a file id); None bounds it at the context window.
    """

    provider: Provider
    model: str
    price: Price | None = None
    context_window: int | None = None
    output_tokens_max: int | None = None
    output_tokens_per_s_max: int = 1_000
    reference_tokens: int | None = None

    @property
    def name(self) -> str:
        """`provider/model`, the label `target`."""
        return f"{self.provider.name}/{self.model}"


@dataclass(frozen=True, slots=True)
class PublicModel:
    """A model name that clients may ask for, and its targets (at least one), which take turns."""

    name: str
    targets: tuple[Target, ...]
    min_output_tokens: int


@dataclass(frozen=True, slots=True)
class ConfiguredKey:
    """A client key from the config: the SHA-256 of the key, never the key. `labels` do not hold its name."""

    name: str
    digest: bytes = field(repr=False)
    labels: Mapping[str, str]
    labels_from: tuple[LabelSource, ...]
    new_subjects_per_hour: int


@dataclass(frozen=True, slots=True)
class Config:
    """A whole config. `warnings` are worth printing at start; none of them stops anything."""

    source: str
    store: Store
    spool: pathlib.Path
    """The folder in which ends of reservations wait while the store is away; absolute."""
    timezone: str
    reservation_deadline_s: float
    busy_wait_s: float
    retention_s: float | None
    """How long entries are kept; None: for ever."""
    min_output_tokens: int
    output_tokens_default: int
    n_max: int
    body_bytes_max: int
    new_subjects_per_hour: int
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    cut_tail_s: float
    on_disconnect: OnDisconnect
    providers: Mapping[str, Provider]
    models: Mapping[str, PublicModel]
    keys: tuple[ConfiguredKey, ...]
    limits: tuple[Limit, ...]
    alerting: Alerting = field(default_factory=Alerting)
    breakers: tuple[Breaker, ...] = ()
    admin_key_digest: bytes | None = field(default=None, repr=False)
    """The SHA-256 of the key to the admin API; without one there is none."""
    admin_from: tuple[IPv4Network | IPv6Network, ...] = ()
    betas: tuple[str, ...] = ()
    """Values of `anthropic-beta` that pass beside the known ones."""
    serves_snapshots: bool = False
    """A dated snapshot of a model (`gpt-4o-2024-08-06`) is served too, at that model's own bounds."""
    makes_key: bool = False
    """Where there is no client key at all, one is made and shown at the first start."""
    warnings: tuple[str, ...] = ()
