"""What Spendfuse means, as pure values: no I/O, no clock, no randomness, no third-party import."""
