"""A backend that answers as told, in fake time, and one call to it."""

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


def run(policy, backend, after=0.0):
    """Return (value or error, seconds it took), having looked that nothing is left."""

    async def main():
        began = seam.monotonic()
        try:
            end = await policy.acall(backend)
        except Exception as error:
            end = error
        seconds = seam.monotonic() - began
        assert policy.state()["active"] == 0
        await asyncio.sleep(after)
        assert len(asyncio.all_tasks()) == 1
        return end, round(seconds, 9)

    return asyncio.run(main())
