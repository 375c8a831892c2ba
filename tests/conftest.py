"""What every test runs under: no network, one thread, a seed of its own."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported: before timm is

import pytest
import torch

pytest_plugins = ["tests.small_runs"]

torch.set_num_threads(1)  # threads that wait for each other on a busy machine take seven times as long


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
