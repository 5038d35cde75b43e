"""Decides. Pure: no clock, no randomness, no I/O, no locks; `runtime` brings those."""
