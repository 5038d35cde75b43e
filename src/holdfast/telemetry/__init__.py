"""Telemetry: what subscribers make of events. Logs, metrics, OpenTelemetry, alerts; redaction.

    stop = hf.telemetry.log_to("holdfast")             # event -> log line
    metrics = hf.telemetry.metrics(); metrics.text()   # Prometheus
    stop = hf.telemetry.opentelemetry()                # spans and instruments; `holdfast[otel]`
    stop = hf.telemetry.alert_on(hf.telemetry.Rule("errors", "error_rate", above=0.1))
    hf.telemetry.redact.url(address)                   # what may be shown of an address

Nothing is loaded before it is used: whoever needs redaction does not load logging.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.telemetry import redact
    from holdfast.telemetry.alerts import Alerts, Rule, alert_on
    from holdfast.telemetry.logs import JsonFormatter, log_to
    from holdfast.telemetry.meters import Metrics, metrics
    from holdfast.telemetry.otel import ExtraMissing, opentelemetry
    from holdfast.telemetry.secret import Secret

__all__ = [
    "Alerts",
    "ExtraMissing",
    "JsonFormatter",
    "Metrics",
    "Rule",
    "Secret",
    "alert_on",
    "log_to",
    "metrics",
    "opentelemetry",
    "redact",
]

# No module has the name of a function here: importing it would put it in the function's place.
_HOMES = {
    "Alerts": "alerts",
    "ExtraMissing": "otel",
    "JsonFormatter": "logs",
    "Metrics": "meters",
    "Rule": "alerts",
    "Secret": "secret",
    "alert_on": "alerts",
    "log_to": "logs",
    "metrics": "meters",
    "opentelemetry": "otel",
}


def __getattr__(name: str) -> object:
    if name == "redact":
        return import_module(f"{__name__}.redact")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
