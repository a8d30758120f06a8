"""Everything that is measured, in one run; see README.md for recorded numbers."""

from bench import gateway_cpu

gateway_cpu.main()
