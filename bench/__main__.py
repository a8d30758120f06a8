"""Everything that is measured, one after the other; README.md has recorded numbers."""

import sys

from bench import gateway_cpu, ledger_pairs, upstream_client

for measure in (gateway_cpu, ledger_pairs, upstream_client):
    sys.argv = [f"bench.{measure.__name__}"]
    measure.main()
