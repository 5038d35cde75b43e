"""Runs a gateway of a configuration file: `python benchmarks/gateway_ours.py FILE`."""

from __future__ import annotations

import gc
import sys

import uvloop

from holdfast.gateway.gateway import Gateway


async def main() -> None:
    gateway = Gateway.from_toml(sys.argv[1])
    await gateway.start()
    gc.collect()
    gc.freeze()
    await gateway.serve()


if __name__ == "__main__":
    uvloop.run(main())
