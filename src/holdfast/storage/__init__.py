"""Durable state: the SQLite journal and atomic files."""
