"""A LiteLLM proxy YAML as it is, read into our config.

Failure policy: closed. What limits money or traffic is enforced, or stops the start; what cannot be reached is not
served; anything else that is not honoured is said, once for each key.
"""

from spendfuse.litellm_config.printing import to_yaml
from spendfuse.litellm_config.translation import Translation, Variable, is_litellm, translate

__all__ = ["Translation", "Variable", "is_litellm", "to_yaml", "translate"]
