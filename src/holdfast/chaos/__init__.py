"""Faults on purpose: a fault server and a fault proxy on real sockets."""
