"""The pytest plugin: fixtures `holdfast_clock` and `holdfast_sim`.

pytest loads it in every project that has Holdfast installed, so it imports nothing but pytest
until a fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from holdfast.testing.fakeclock import FakeClock
    from holdfast.testing.simulation import SimResult


@pytest.fixture
def holdfast_clock() -> Iterator[FakeClock]:
    """Install a fake clock for the whole test; time jumps when everything waits."""
    from holdfast.testing import clock  # noqa: PLC0415 - nothing is imported before it is used

    with clock() as fake:
        yield fake


@pytest.fixture
def holdfast_sim() -> Callable[..., SimResult]:
    """Give `run(main, seed=0)`: `main(sim)` runs in a simulated world; leaks fail the test."""
    from holdfast.testing import sim_run  # noqa: PLC0415 - nothing is imported before it is used

    return sim_run
