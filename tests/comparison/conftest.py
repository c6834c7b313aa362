import pytest
from small_arms import ARMS

import tfbn


@pytest.fixture(scope="session")
def result(blobs):
    """A comparison of two seeds, which every test leaves as it was."""
    return tfbn.compare(ARMS, blobs, epochs=3, batch_size=20, seeds=2, command="tfbn compare")
