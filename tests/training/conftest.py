"""What several tests of training need."""

import pytest


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end with their last step: the best weights are not evaluated again, and no report is written."""
    monkeypatch.setattr("segweave.training.run.finish", lambda *arguments: None)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch, no_report: None) -> None:
    """Runs end before their first step, with what they print before it."""
    monkeypatch.setattr("segweave.training.run.PreparedRun.fit", lambda *arguments: None)
