"""Where a network runs: devices, their self-test, distribution strategies."""
