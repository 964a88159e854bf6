"""The circuit, with time passed in."""

from __future__ import annotations

from proxy.cloud.circuit import Circuit


def opened(at: float = 10.0) -> Circuit:
    circuit = Circuit(failures=3, silence=5.0, first_wait=2.0, longest_wait=6.0)
    circuit.failed(at - 5.0)
    circuit.failed(at - 1.0)
    assert circuit.failed(at)
    return circuit


def test_opens_after_failures_in_a_row_over_some_time() -> None:
    circuit = opened(10.0)
    assert circuit.open
    assert circuit.wait(10.0) == 2.0


def test_a_burst_of_failures_is_not_silence() -> None:
    circuit = Circuit(failures=3, silence=5.0)
    assert not any(circuit.failed(1.0 + n / 100) for n in range(50))
    assert circuit.wait(2.0) == 0.0


def test_an_answer_in_between_starts_the_count_anew() -> None:
    circuit = Circuit(failures=2, silence=5.0)
    circuit.failed(1.0)
    circuit.succeeded()
    assert not circuit.failed(9.0)
    assert not circuit.open


def test_lets_one_try_and_holds_the_others_back() -> None:
    circuit = opened(10.0)
    assert circuit.wait(12.0) == 0.0
    assert circuit.wait(12.0) == 2.0


def test_a_try_that_fails_doubles_the_wait_up_to_the_longest() -> None:
    circuit = opened(10.0)
    waits = []
    now = 12.0
    for _ in range(3):
        assert circuit.wait(now) == 0.0
        assert not circuit.failed(now)
        waits.append(circuit.wait(now))
        now += waits[-1]
    assert waits == [4.0, 6.0, 6.0]


def test_calls_that_were_under_way_when_it_opened_do_not_lengthen_the_wait() -> None:
    circuit = opened(10.0)
    circuit.failed(10.5)
    circuit.failed(10.6)
    assert circuit.wait(12.6) == 0.0


def test_closes_by_a_try_that_is_answered() -> None:
    circuit = opened(10.0)
    assert circuit.wait(12.0) == 0.0
    circuit.succeeded()
    assert not circuit.open
    assert [circuit.wait(12.0), circuit.wait(12.0)] == [0.0, 0.0]


def test_a_try_that_never_reports_back_blocks_no_longer_than_a_failure() -> None:
    circuit = opened(10.0)
    circuit.wait(12.0)
    assert circuit.wait(14.0) == 0.0
