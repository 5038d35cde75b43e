"""The gateway: one steady address in front of flaky endpoints."""
