"""Everything that is measured, one after the other, in four and a half minutes; README.md has recorded figures."""

import platform
import sys
import time

import psutil

from bench import gate_flow, gateway_cpu, hot_path, latency, ledger, start, streams, upstream_client

started_s = time.perf_counter()
load = psutil.getloadavg()[0]
print(f"Python {platform.python_version()}, {psutil.cpu_count()} cores, load {load:.2f} before (it should be near 0)")
for measure in (start, gateway_cpu, streams, latency, ledger, upstream_client, gate_flow, hot_path):
    sys.argv = [measure.__name__]
    measure.main()
print(f"\nall in {time.perf_counter() - started_s:.0f} s")
