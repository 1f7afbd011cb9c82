"""What an engine reports, waited for."""

from seggrid.grid.job import Ended, Engine, Started

POLL_S = 0.2


def until(engine: Engine, *events: type, within_s: float = 30) -> list[Started | Ended]:
    """Polls until as many events of these kinds have come."""
    seen: list[Started | Ended] = []
    for _ in range(int(within_s / POLL_S)):
        seen += engine.poll(POLL_S)
        if sorted(type(item).__name__ for item in seen) == sorted(item.__name__ for item in events):
            return seen
    raise AssertionError(f"{seen} in {within_s} s")
