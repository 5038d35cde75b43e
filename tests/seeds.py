"""Running the seeds of a scenario: no invariant breaks, or which ones a planted defect breaks."""

from __future__ import annotations

from operator import attrgetter

from holdfast.testing.simulation import run_scenario


def run_seeds(scenario, first, count, look=attrgetter("faults")):
    """Run seeds, none of which may break an invariant; return what `look` sees of each result."""
    seen = []
    for seed in range(first, first + count):
        result = run_scenario(scenario, seed)
        assert result.violations == [], (
            f"python -m holdfast.testing.sim {scenario.name} --seed {seed}"  # what repeats it
        )
        seen.append(look(result))
    return seen


def assert_repeats(scenario, *seeds):
    """Run each seed twice, with the same outcome; return the results."""
    found = []
    for seed in seeds:
        first, second = (run_scenario(scenario, seed) for _ in range(2))
        assert first.trace == second.trace
        assert first.value == second.value
        assert first.faults == second.faults
        found.append(first)
    return found


def kinds_in(result):
    """Return the kinds of violation in a result."""
    return {text.partition(":")[0] for text in result.violations}


def kinds_found(scenario, seeds):
    """Return the kinds of violation that the first seeds bring up, all together."""
    return set().union(*(kinds_in(run_scenario(scenario, seed)) for seed in range(seeds)))


def first_found(scenario, seeds):
    """Return the kinds of violation of the first seed that has one."""
    found = (kinds_in(run_scenario(scenario, seed)) for seed in range(seeds))
    return next(filter(None, found), set())
