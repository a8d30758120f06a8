"""From a LiteLLM YAML to a config: every section in turn, then one tree for `config.read_tree`."""

import os
import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from spendfuse.config import Config, read_tree
from spendfuse.config.document import Tree
from spendfuse.config.schema import keys_known_at
from spendfuse.litellm_config import settings
from spendfuse.litellm_config.deployments import Deployment, DeploymentReader
from spendfuse.litellm_config.files import environment, read_file
from spendfuse.litellm_config.findings import Findings
from spendfuse.litellm_config.leftovers import report_rest
from spendfuse.litellm_config.limits import LimitBook
from spendfuse.litellm_config.models import Models
from spendfuse.litellm_config.origins import without_client_settings
from spendfuse.litellm_config.secrets import Secrets
from spendfuse.litellm_config.sections import REFERENCE, Section
from spendfuse.litellm_config.timeouts import longest_total_s

STORE = "sqlite:///spendfuse.db"
_SECTIONS = frozenset(
    {"model_list", "litellm_settings", "router_settings", "general_settings", "environment_variables", "include"}
)
_DEADLINE_S = 600


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable that the tree refers to and only the LiteLLM file sets; `stands_at` is where."""

    name: str
    stands_at: str


@dataclass(frozen=True, slots=True)
class Translation:
    """A LiteLLM YAML in our words.

    `tree` is our YAML, in which a secret is only ever a reference; those of `variables` have to be set for it, as
    `config` has them from the file. `warnings` stand in the config as well.
    """

    config: Config
    tree: Mapping[str, object]
    warnings: tuple[str, ...]
    variables: tuple[Variable, ...]


def is_litellm(tree: Mapping[str, object]) -> bool:
    """Whether a config is LiteLLM's: it has a section of LiteLLM's and no key of ours."""
    return not _SECTIONS.isdisjoint(tree) and keys_known_at(()).isdisjoint(tree)


def translate(
    text: str,
    *,
    source: str = "config",
    folder: pathlib.Path | None = None,
    environ: Mapping[str, str] = os.environ,
    accept_unenforced: bool = False,
) -> Translation:
    """Read a LiteLLM YAML. The store and what the file includes stand in `folder`, by default the current one.

    Raises:
        ConfigInvalid: with a line for every problem, by the file's own key paths. Without `accept_unenforced` a key
            that limits money or traffic and would not be enforced is one.
    """
    folder = folder or pathlib.Path()
    file = read_file(text, source, folder)
    findings = Findings(source, file.lines, accept_unenforced=accept_unenforced)
    of_file = environment(file.tree.get("environment_variables"), environ, findings)
    secrets = Secrets({**without_client_settings(environ, findings), **of_file})
    top = Section(file.tree, (), environ=secrets.environ, findings=findings)
    top.raw("environment_variables")
    tree = _tree(top, findings, secrets)
    findings.raise_any()
    config = read_tree(tree, source=source, folder=folder, environ=secrets.environ)
    warnings = (*findings.warnings, *config.warnings)
    stands_at = {name: f"environment_variables.{name}" for name in of_file} | secrets.stands_at
    return Translation(
        config=replace(config, warnings=warnings, makes_key=not config.keys),
        tree=tree,
        warnings=warnings,
        variables=tuple(Variable(name, stands_at[name]) for name in _referred(tree) if name in stands_at),
    )


def _tree(top: Section, findings: Findings, secrets: Secrets) -> dict[str, Tree]:
    general, litellm, router = (top.section(f"{name}_settings") for name in ("general", "litellm", "router"))
    defaults = settings.read_defaults(top, router=router, litellm=litellm, findings=findings)
    reader = DeploymentReader(findings=findings, secrets=secrets, defaults=defaults)
    served = [one for entry in top.sections("model_list") if (one := reader.read(entry))]
    models = Models(findings)
    for deployment in served:
        models.add(deployment)
    models.alias(router.section("model_group_alias"))
    if not models:
        findings.stop(("model_list",), "has no model that can be served" if "model_list" in top else "is missing")
    book = LimitBook()
    settings.add_proxy_limits(book, general=general, litellm=litellm, findings=findings)
    settings.add_provider_limits(book, router=router, providers=models.providers, findings=findings)
    models.add_limits(book)
    keys = settings.client_keys(general, findings=findings, secrets=secrets)
    size = settings.body_bytes_max(general, findings)
    settings.read_routing(router)
    for section in (router, litellm, general, top):
        report_rest(section, findings)
    found: dict[str, Tree] = {
        "store": STORE,
        "reservation_deadline": _deadline(served),
        "body_bytes_max": size,
        "providers": models.providers.tree(),
        "models": models.tree(),
        "keys": keys,
        "limits": book.tree,
    }
    return {key: value for key, value in found.items() if value}


def _deadline(served: list[Deployment]) -> str | None:
    """A deadline of reservations that no attempt outlasts, where the default is too short."""
    longest = max((longest_total_s(one.upstream.timeouts) for one in served), default=Decimal(0))
    return settings.seconds_text(longest) if longest > _DEADLINE_S else None


def _referred(tree: Tree) -> list[str]:
    """The environment variables that a tree refers to, in its order."""
    if isinstance(tree, str):
        return [tree.removeprefix(REFERENCE)] if tree.startswith(REFERENCE) else []
    values: Iterable[Tree] = tree.values() if isinstance(tree, dict) else tree or ()
    return list(dict.fromkeys(name for value in values for name in _referred(value)))
