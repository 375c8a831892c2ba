"""A sample that can't be read ends a run with the one line that says so, wherever it was loaded."""

import pytest
from torch.utils.data import Dataset

from segweave.data.loading import loader_of
from segweave.errors import InputError


class Numbers(Dataset[int]):
    """0 to 5, of which 3 can't be read."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        if index == 3:
            raise InputError("three.png: not an image")
        return index


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_takes_the_place_of_its_batch(workers: int) -> None:
    first, second, third = loader_of(Numbers(), batch_size=2, num_workers=workers)
    assert first.tolist() == [0, 1]
    assert third.tolist() == [4, 5]
    assert isinstance(second, InputError)
    assert str(second) == "three.png: not an image"


def test_other_errors_are_not_hidden() -> None:
    class Broken(Numbers):
        def __getitem__(self, index: int) -> int:
            raise KeyError(index)

    with pytest.raises(KeyError):
        next(iter(loader_of(Broken(), batch_size=2)))
