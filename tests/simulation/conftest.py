"""Every test of the simulator runs in a world that leaves out what made-up worlds need not do."""

from collections.abc import Iterator

import pytest
from simulation.quick import patient, quick


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


@pytest.fixture(autouse=True)
def _patient() -> Iterator[None]:
    """To be overridden where it is measured how long calls take meanwhile."""
    with patient():
        yield
