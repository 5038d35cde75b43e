"""A backend that answers as told, in fake time."""

from __future__ import annotations

import asyncio

from holdfast.runtime.clock import clock as seam


class Backend:
    """Answers the n-th request as the n-th behaviour says: seconds, then a value or an error.

    A third number is how many seconds it holds on to its cancellation.
    """

    def __init__(self, *behaviours):
        self.behaviours = behaviours
        self.began = []
        self.ended = []

    async def __call__(self):
        number = len(self.began)
        seconds, end, *holds = self.behaviours[min(number, len(self.behaviours) - 1)]
        self.began.append(seam.monotonic())
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.ended.append((number, "cancelled"))
            if holds:
                await asyncio.sleep(holds[0])
                self.ended.append((number, "let go"))
            raise
        self.ended.append((number, "done"))
        if isinstance(end, BaseException):
            raise end
        return end
