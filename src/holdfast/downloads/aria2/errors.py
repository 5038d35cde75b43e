"""What the aria2 surface refuses or cannot do.

DownloadError
Aria2Error                  base
|-- Aria2Unavailable        no answer from the service, however often it was asked
|-- Aria2AuthError          the service does not accept the token
|-- Aria2Refused            the service understood the call and said no
|-- Aria2ProcessError       a service of our own could not be started
`-- ViaFailed               a file could not be fetched on behalf of others (see `via`)
"""

from __future__ import annotations

from holdfast.core.errors import HoldfastError


class Aria2Error(HoldfastError):
    """Base of the errors about the aria2 service. address: `host:port` of it."""

    code = "HF-1600"
    exit_code = 2
    next_step = ""

    def __init__(self, text: str, *, address: str = "") -> None:
        super().__init__(text)
        self.address = address

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (str(self),), self.__dict__)


class Aria2Unavailable(Aria2Error):
    """The service gave no answer. attempts: how often it was asked; `__cause__` is the last.

    What was to be added has not been: ask again when the service is back.
    """

    code = "HF-1601"
    exit_code = 75
    next_step = "Check that aria2c runs with `--enable-rpc` and listens there."

    def __init__(self, text: str, *, address: str = "", attempts: int = 0) -> None:
        super().__init__(text, address=address)
        self.attempts = attempts


class Aria2AuthError(Aria2Error):
    """The service refuses the token; asking again would not change that, so it is asked once."""

    code = "HF-1602"
    next_step = "Give `secret=` what the service was given as `rpc-secret`."


class Aria2Refused(Aria2Error):
    """The service answered a call with an error. method: of the call; reason: its words."""

    code = "HF-1603"
    next_step = "Check the options; see `aria2c --help=#all`."

    def __init__(self, method: str, reason: str, *, address: str = "") -> None:
        super().__init__(f"aria2 refused `{method}`: {reason}", address=address)
        self.method = method
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.method, self.reason), self.__dict__)


class Aria2ProcessError(Aria2Error):
    """aria2c could not be started, or does not stay alive."""

    code = "HF-1604"
    next_step = "Install aria2 (Debian: `apt-get install aria2`), and check its options."
