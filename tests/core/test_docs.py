"""What the docs claim about the tests is true."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`([a-z_]+/test_\w+\.py)::(test_\w+)`")


def test_every_test_that_the_invariants_name_exists() -> None:
    named = NAMED.findall((ROOT / "docs/INVARIANTS.md").read_text())
    assert len(named) > 20
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / "tests" / file).read_text()]
    assert missing == []


def test_no_link_of_the_front_pages_is_dead() -> None:
    pages = ["README.md", "ARCHITECTURE.md"]
    pages += [f"docs/{page}.md" for page in ("INVARIANTS", "alerts", "guide", "reservations", "reference/litellm")]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text().replace("\n", " "))
    ]
    assert links
    assert [(page, link) for page, link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
