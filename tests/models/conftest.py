"""What all tests of networks share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on a busy machine wait for each other ten times longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def without_onednn() -> Iterator[None]:
    """Convolutions by torch's own kernels.

    On some CPUs (AMD EPYC with avx512_bf16) oneDNN 3.12 spoils the heap in the backward pass of
    convolutions of fewer than 16 channels, channels last, and the process ends somewhere later.
    The networks of these tests are that narrow.
    """
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    yield
    torch.backends.mkldnn.enabled = before
