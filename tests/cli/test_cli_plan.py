"""`holdfast plan`: the numbers of the worst case, and what it says of nonsense."""

from __future__ import annotations

import json

import pytest

import holdfast as hf
from holdfast.cli.main import main
from holdfast.cli.output import Exit


def plan_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["plan", *words, "--json"]) == Exit.DONE
    return json.loads(capsys.readouterr().out)


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["plan", *words]) == Exit.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


T3 = ("--retries", "5", "--base", "60", "--cap", "300", "--jitter", "none")


def test_five_retries_are_six_attempts_and_1020_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(capsys, *T3)
    assert [delay["nominal"] for delay in plan["delays"]] == [60, 120, 240, 300, 300]
    assert all(delay["min"] == delay["max"] == delay["nominal"] for delay in plan["delays"])
    assert plan["attempt_times"] == [0, 60, 180, 420, 720, 1020]
    assert plan["wait_total"] == 1020
    assert plan["attempts_max"] == plan["requests_max"] == 6
    assert plan["seconds_max"] == "unbounded"


def test_text_shows_each_attempt_and_the_totals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *T3]) == Exit.DONE
    said = capsys.readouterr()
    assert said.out == (
        'policy: Retry(6, backoff=Exponential(base=60, cap=300, jitter="none"))\n'
        "\n"
        " attempt   starts at   after a delay of\n"
        "       1         0 s\n"
        "       2        60 s   60 s\n"
        "       3       180 s   120 s\n"
        "       4       420 s   240 s\n"
        "       5       720 s   300 s\n"
        "       6      1020 s   300 s\n"
        "\n"
        "requests:     6\n"
        "total delay:  1020 s (17 min 0 s)\n"
        "longest:      unbounded\n"
        "dead backend: 1.035 requests per call, over 1,000 calls\n"
    )
    assert said.err == "warning: nothing bounds the time: add a Deadline\n"


def test_deadline_cuts_attempts_and_bounds_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(capsys, *T3, "--deadline", "200")
    assert plan["attempt_times"] == [0, 60, 180]
    assert plan["seconds_max"] == 200
    assert plan["warnings"] == []


def test_timeout_of_each_attempt_bounds_the_time_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_of(capsys, *T3, "--timeout", "2.5")["seconds_max"] == 1020 + 6 * 2.5


def test_jitter_is_shown_as_a_range(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--retries", "1", "--base", "8", "--jitter", "equal"])
    assert "       2         8 s   8 s (4 s to 8 s)\n" in capsys.readouterr().out


def test_jitter_lets_more_attempts_fit_before_a_deadline(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--retries", "5", "--base", "60", "--cap", "300", "--deadline", "200")
    assert plan_of(capsys, *words, "--jitter", "none")["requests_max"] == 3
    assert plan_of(capsys, *words)["requests_max"] == 6
    main(["plan", *words])
    text = capsys.readouterr().out
    assert "       3       180 s   120 s (0 s to 120 s)\n" in text
    assert "       6      sooner   300 s (0 s to 300 s)\n" in text
    assert "requests:     6\n" in text
    assert "sooner: fits before the deadline only if" in text


@pytest.mark.parametrize(
    ("words", "nominal"),
    [
        (("--backoff", "constant", "--base", "2"), [2, 2, 2]),
        (("--backoff", "linear", "--base", "2", "--cap", "5"), [2, 4, 5]),
        (("--backoff", "exponential", "--base", "1", "--factor", "3"), [1, 3, 9]),
        ((), [0.05, 0.1, 0.2]),
    ],
)
def test_each_backoff_has_its_delays(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], nominal: list[float]
) -> None:
    plan = plan_of(capsys, "--retries", "3", *words)
    assert [delay["nominal"] for delay in plan["delays"]] == pytest.approx(nominal)


def test_decorrelated_ranges_from_nothing_to_its_cap(capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(capsys, "--retries", "9", "--backoff", "decorrelated", "--cap", "4")
    assert plan["delays"][-1] == {"nominal": 4.0, "min": 0.0, "max": 4.0}


def test_an_expression_means_what_it_means_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        "Deadline(120), Bulkhead(8, queue=50), RateLimit(10, per=1.0), "
        "hf.Retry(5, on=TRANSIENT | hf.AUTH, backoff=hf.Linear(-0.0, cap=None), "
        "budget=Budget.ratio(0.5)), Breaker(consecutive=None), Timeout(10)"
    )
    plan = plan_of(capsys, text)
    own = hf.policy(
        hf.Deadline(120),
        hf.Retry(5, backoff=hf.Linear(0), budget=hf.Budget.ratio(0.5)),
        hf.Timeout(10),
    ).plan()
    assert plan["policy"] == text
    assert {key: plan[key] for key in own.as_dict()} == own.as_dict()


def test_options_and_the_printed_expression_are_the_same_plan(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = plan_of(capsys, *T3, "--deadline", "900", "--timeout", "0.5")
    second = plan_of(capsys, str(first["policy"]))
    assert {**first, "t": 0} == {**second, "t": 0}


def test_no_budget_means_every_retry_reaches_a_dead_backend(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = plan_of(capsys, "Deadline(9), Retry(4, budget=None)")
    assert plan["dead_backend_factor"] == 4
    assert any("without budget" in str(text) for text in plan["warnings"])


def test_a_hedge_multiplies_what_the_backend_may_see(capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(capsys, "Deadline(30), Retry(3), Hedge(max=2)")
    assert (plan["attempts_max"], plan["requests_max"]) == (3, 9)


def test_a_long_plan_is_cut_for_people_only(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--retries", "200"])
    text = capsys.readouterr().out
    assert "151 more" in text
    assert len(text.splitlines()) < 70
    assert len(plan_of(capsys, "--retries", "200")["delays"]) == 200


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (("--retries", "-1"), "HF-5001", ["`--retries`", "-1"]),
        (("--base", "60"), "HF-5001", ["base", "[0, 20]", "`--cap` is 20"]),
        (("--base", "nan"), "HF-5001", ["`--base`", "nan"]),
        (("--deadline", "-3"), "HF-5001", ["Deadline", "above 0", "-3"]),
        (("--timeout", "0"), "HF-5001", ["Timeout", "above 0"]),
        (("--timeout", "inf"), "HF-5001", ["`--timeout`", "inf"]),
        (("--backoff", "constant", "--cap", "3"), "HF-5001", ["`--cap`", "`constant`", "--base"]),
        (("--factor", "0.5"), "HF-5001", ["factor", "[1, 1000]"]),
        (("--retries", "x"), "HF-6001", ["--retries", "x"]),
        (("Retry(0)",), "HF-5001", ["attempts", "0"]),
        (("Retry(3), Retry(2)",), "HF-5001", ["at most one Retry"]),
        (("Retry",), "HF-5001", ["forgot to call it"]),
        (("Retry(3, retries=3)",), "HF-5001", ["retries"]),
        (("Retry(",), "HF-5002", ["never closed", "Write it as in Python"]),
        (("Retyr(3)",), "HF-5002", ["`Retyr`"]),
        (("Budget.nothing()",), "HF-5002", ["Budget.nothing"]),
        (("Retry(**{})",), "HF-5002", ["Retry(**{})"]),
        (("[Retry(3)]",), "HF-5002", ["[Retry(3)]"]),
        (("",), "HF-5002", []),
        (("Retry(3)", "--retries", "2"), "HF-6001", ["`--retries`", "POLICY"]),
    ],
)
def test_nonsense_is_named_with_a_code(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: str, parts: list[str]
) -> None:
    said = error_of(capsys, *words)
    assert f"[{code}]" in said
    for part in parts:
        assert part in said


def test_an_expression_executes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "HF-5002" in error_of(capsys, "Retry(__import__('os').getpid())")
    assert "HF-5002" in error_of(capsys, "hf.testing.clock()")
    assert "HF-5002" in error_of(capsys, "Retry(3).__class__")
    assert "HF-5002" in error_of(capsys, "(lambda: 3)()")


def test_nesting_without_end_is_an_error_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert "HF-5002" in error_of(capsys, "Retry(" * 5000 + ")" * 5000)


def test_help_has_examples_that_work(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    shown = capsys.readouterr().out
    assert "holdfast plan --retries 5 --base 60 --cap 300 --jitter none" in shown
    assert '"Deadline(120), Retry(6, budget=None), Timeout(10)"' in shown
    plan = plan_of(capsys, "Deadline(120), Retry(6, budget=None), Timeout(10)")
    assert plan["attempts_max"] == 6
