"""`model_list` as our models: entries of one name are targets that take turns, each under limits of its own."""

from dataclasses import dataclass, field

from spendfuse.config import scalars
from spendfuse.config.document import Tree
from spendfuse.config.problems import path_text
from spendfuse.litellm_config.deployments import Deployment
from spendfuse.litellm_config.findings import Findings
from spendfuse.litellm_config.limits import LimitBook
from spendfuse.litellm_config.providers import Providers
from spendfuse.litellm_config.sections import Section


@dataclass(slots=True)
class _Group:
    deployments: dict[str, Deployment] = field(default_factory=dict[str, Deployment])
    """By target."""
    names: list[str] = field(default_factory=list[str])
    """Its own, and its aliases."""


class Models:
    """The sections `providers` and `models`, and the limits of single targets."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._groups: dict[str, _Group] = {}
        self.providers = Providers()

    def __bool__(self) -> bool:
        return bool(self._groups)

    def add(self, deployment: Deployment) -> None:
        """Add an entry to its group; one that is there already says nothing new."""
        group = self._groups.setdefault(deployment.group, _Group(names=[deployment.group]))
        for other in group.deployments.values():
            if other == deployment:
                self._findings.warn(deployment.path, f"is the same as {path_text(other.path)}, and is served once")
                return
        target = self.providers.target_of(deployment, set(group.deployments))
        group.deployments[target] = deployment
        if deployment.prices is None and target.startswith("azure-"):
            # Only a provider that is called azure has its price list.
            what = "no price of it is known, so that calls are refused until input_cost_per_token and"
            self._findings.warn(deployment.path, f"{what} output_cost_per_token are set: it is not the first Azure")

    def alias(self, aliases: Section) -> None:
        """Serve groups under further names."""
        for alias in aliases.left():
            path = aliases.path_of(alias)
            value = aliases.raw(alias)
            name = value.get("model") if isinstance(value, dict) else value
            try:
                scalars.labelled(alias)
            except ValueError as error:
                self._findings.invalid(path, alias, str(error))
            if not isinstance(name, str) or name not in self._groups:
                self._findings.ignored(path, "its model is not served")
            elif alias in {one for group in self._groups.values() for one in group.names}:
                self._findings.ignored(path, "a model of this name is served")
            else:
                self._groups[name].names.append(alias)

    def tree(self) -> dict[str, Tree]:
        """The section `models`."""
        trees = [(group, self._tree(group)) for group in self._groups.values()]
        return {name: tree for group, tree in trees for name in group.names}

    def add_limits(self, book: LimitBook) -> None:
        """The limits of each target."""
        for name, group in self._groups.items():
            for target, deployment in group.deployments.items():
                of = f"{name}.{target.partition('/')[0]}" if len(group.deployments) > 1 else name
                match = {"model": group.names, "target": [target]}
                for amount in deployment.limits:
                    book.add(f"{amount.kind}.{of}", amount, match=match)
                for amount in deployment.limits_of_keys:
                    book.add(f"{amount.kind}.{of}", amount, each=["key"], match=match)

    def _tree(self, group: _Group) -> Tree:
        targets: list[Tree] = [*group.deployments]
        tree: dict[str, Tree] = {"targets": targets}
        each = list(group.deployments.values())
        # A window bounds what a call is charged: the widest. A cap is sent upstream: the one that all of them take.
        for key, said, choose in (
            ("context_window", [one.context_window for one in each], max),
            ("output_tokens_max", [one.output_tokens_max for one in each], min),
        ):
            known = [one for one in said if one]
            if len(known) == len(each):
                tree[key] = str(choose(known))
                continue
            # A target that says nothing may have another: then each has what the sheet of caps says.
            for one, tokens in zip(each, said, strict=True):
                if tokens:
                    what = f"its {key} of {tokens} is not honoured: other deployments of {group.names[0]} say none"
                    self._findings.warn((*one.path, "model_info"), what)
        return targets[0] if len(tree) == 1 and len(targets) == 1 else tree
