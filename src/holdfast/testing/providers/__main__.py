"""`python -m holdfast.testing.providers`: fake providers to play with, until Ctrl-C.

python -m holdfast.testing.providers 9001 9002 9003 --flaky
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack

from holdfast.chaos import Fault, IdleClose, Reset
from holdfast.testing.providers.faults import ApiError
from holdfast.testing.providers.server import provider

FLAKY: tuple[tuple[Fault, ...], ...] = (
    (Reset(part="head", share=0.2),),
    (ApiError(529, share=0.15), ApiError(503, share=0.05)),
    (ApiError(429, retry_after=1, share=0.05, burst=3), IdleClose(0.01, share=0.3)),
)
"""What goes wrong with the first, the second, the third provider; then again from the first."""


def main(words: list[str] | None = None) -> int:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m holdfast.testing.providers",
        description="Fake providers of language models on 127.0.0.1; see docs/testing.md.",
    )
    add = parser.add_argument
    add("ports", type=int, nargs="+", metavar="PORT", help="one provider at each; 0: a free one")
    add("--key", action="append", default=[], help="credential that is let in (default: all are)")
    add("--flaky", action="store_true", help="resets, 429, 503, 529, closed idle connections")
    add("--token-seconds", type=float, default=0.05, help="between two words of a stream")
    add("--seed", default="0", help="of the faults (default: 0)")
    args = parser.parse_args(words)
    try:
        asyncio.run(_serve(args))
    except OSError as error:
        parser.exit(1, f"error: {error}\n")
    except KeyboardInterrupt:
        pass
    return 0


async def _serve(args: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        for number, port in enumerate(args.ports):
            llm = provider(
                *(FLAKY[number % len(FLAKY)] if args.flaky else ()),
                keys=args.key,
                token_seconds=args.token_seconds,
                seed=f"{args.seed}/{number}",
                port=port,
            )
            try:
                await stack.enter_async_context(llm)
            except OSError as error:
                raise OSError(f"port {port}: {error.strerror}") from None
            sys.stdout.write(f"provider {number + 1}: {llm.url('')}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
