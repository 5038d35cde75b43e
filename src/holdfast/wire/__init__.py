"""Bytes on the network: TLS, sockets, address policy."""
