"""Classification as data: errno, HTTP status, exceptions, providers."""
