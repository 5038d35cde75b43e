"""Drives. The seams (clock, random, files) and the thin drivers around `core`."""
