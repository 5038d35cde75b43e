"""Fake providers of APIs, on real sockets, with faults."""
