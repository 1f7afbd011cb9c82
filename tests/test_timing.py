"""Times: warmed up until stable, every sample kept."""

import time

import pytest
import torch

from seggrid.timing import LEAST_SAMPLES, Budget, Clock, milliseconds, sample, summary, wait

CPU = torch.device("cpu")


def _passes(times: list[float]):
    """Returns a pass that takes one time after the other, the last for ever, and the list of those that were made."""
    made: list[float] = []

    def once() -> float:
        made.append(times[min(len(made), len(times) - 1)])
        return made[-1]

    return once, made


def test_warming_up_goes_on_while_passes_get_faster() -> None:
    falling = [100.0, 90, 80, 70, 60, 50, 40, 30, 20]
    once, made = _passes([*falling, 10.0])
    samples = sample(once, Budget(warmup=1, samples=4, seconds=60))
    assert samples == [10.0] * 4
    assert len(made) > len(falling) + 4


def test_the_peak_of_memory_can_start_anew_between_warming_up_and_the_samples() -> None:
    once, made = _passes([10.0])
    at: list[int] = []
    sample(once, Budget(warmup=3, samples=5, seconds=60), lambda: at.append(len(made)))
    assert at == [6]


def test_a_steady_machine_is_warm_after_two_windows() -> None:
    once, made = _passes([10.0])
    sample(once, Budget(warmup=3, samples=5, seconds=60))
    assert len(made) == 6 + 5


def test_warmup_0_times_the_first_pass_too() -> None:
    once, made = _passes([50.0, 10.0])
    assert sample(once, Budget(warmup=0, samples=3, seconds=60)) == [50.0, 10.0, 10.0]
    assert len(made) == 3


def test_slow_work_gets_fewer_samples_but_never_fewer_than_deciles_need() -> None:
    def once() -> float:
        time.sleep(0.002)
        return 2.0

    assert len(sample(once, Budget(warmup=0, samples=1000, seconds=0.0))) == LEAST_SAMPLES
    assert len(sample(once, Budget(warmup=0, samples=2, seconds=0.0))) == 2


def test_warming_up_ends_with_its_time_too() -> None:
    falling = iter(range(10**6, 0, -1))

    def once() -> float:
        time.sleep(0.001)
        return float(next(falling)) ** 3

    start = time.perf_counter()
    sample(once, Budget(warmup=1, samples=1, seconds=0.02))
    assert time.perf_counter() - start < 5


def test_no_outlier_is_left_out() -> None:
    figures = summary([10.0] * 9 + [500.0])
    assert figures["samples"].count(500.0) == 1
    assert figures["median"] == 10.0
    assert figures["p90"] == pytest.approx(59.0)  # numpy.quantile(samples, 0.9)
    assert summary([3.0]) == {"median": 3.0, "p10": 3.0, "p90": 3.0, "samples": [3.0]}


def test_on_a_gpu_events_are_asked_and_only_after_the_device_has_done_all(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Event:
        made = 0

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            Event.made += 1
            self.place = Event.made

        def record(self) -> None:
            done.append(f"record {self.place}")

        def elapsed_time(self, end: "Event") -> float:
            assert done[-1] == "wait"  # an event that has not happened cannot be asked
            return 10.0 * (end.place - self.place)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append("wait"))
    assert milliseconds(lambda: done.append("work"), torch.device("cuda")) == 10.0
    assert done == ["wait", "record 1", "work", "record 2", "wait"]


def test_a_pass_is_timed_and_so_are_its_parts() -> None:
    assert milliseconds(lambda: time.sleep(0.02), CPU) >= 20
    clock = Clock(CPU)
    clock.start()
    time.sleep(0.02)
    first = clock.mark()
    time.sleep(0.01)
    last = clock.mark()
    wait(CPU)
    assert clock.between_ms(0, first) >= 20
    assert clock.between_ms(0, last) == pytest.approx(clock.between_ms(0, first) + clock.between_ms(first, last))
