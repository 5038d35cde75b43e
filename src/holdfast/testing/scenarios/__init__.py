"""Scenarios of the simulator, one per module; each has a `SCENARIO`."""
