"""Holdfast makes network work finish: calls, streams, downloads and paid jobs."""

from holdfast._version import __version__

__all__ = ["__version__"]
