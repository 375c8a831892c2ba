"""The order of an epoch, and the seeds of chance: the same whatever the number of workers and processes."""

import itertools

import pytest

from segweave.data.loading import TrainingOrder, seed_of


def order_of(length: int, batch_size: int, epoch: int = 0, seed: int = 0, **share: int) -> list[int]:
    order = TrainingOrder(length, batch_size, seed=seed, **share)
    order.set_epoch(epoch)
    keys = list(order)
    assert len(keys) == len(order)
    assert {key[0] for key in keys} <= {epoch}
    return [index for _, index in keys]


@pytest.mark.parametrize(("length", "batch_size", "expected"), [(21, 4, 20), (20, 4, 20), (3, 4, 3), (7, 1, 7)])
def test_each_index_comes_at_most_once_and_the_rest_is_left_out(length: int, batch_size: int, expected: int) -> None:
    for epoch in range(4):
        indices = order_of(length, batch_size, epoch)
        assert len(indices) == len(set(indices)) == expected
        assert set(indices) <= set(range(length))


def test_order_changes_with_epoch_and_seed_and_is_otherwise_the_same() -> None:
    orders = {tuple(order_of(20, 4, epoch, seed)) for epoch in range(4) for seed in range(3)}
    assert len(orders) == 12
    assert order_of(20, 4, epoch=2) == order_of(20, 4, epoch=2)


def test_the_rest_that_is_left_out_is_not_always_the_same() -> None:
    left_out = {index for epoch in range(30) for index in set(range(9)) - set(order_of(9, 4, epoch))}
    assert len(left_out) > 5


@pytest.mark.parametrize(("length", "batch_size", "processes"), [(21, 4, 2), (8, 8, 2), (30, 6, 3)])
def test_shares_of_a_step_make_the_one_process_batch(length: int, batch_size: int, processes: int) -> None:
    whole = order_of(length, batch_size, epoch=1)
    shares = [order_of(length, batch_size, epoch=1, rank=rank, processes=processes) for rank in range(processes)]
    share = TrainingOrder(length, batch_size, seed=0, processes=processes).share
    assert share == batch_size // processes
    assert all(len(each) * processes == len(whole) for each in shares)
    for step in range(length // batch_size):
        together = [index for each in shares for index in each[step * share : (step + 1) * share]]
        assert sorted(together) == sorted(whole[step * batch_size : (step + 1) * batch_size])


def test_data_smaller_than_the_batch_makes_one_batch_of_its_own_length() -> None:
    order = TrainingOrder(3, 16, seed=0)
    assert order.share == 3
    assert sorted(index for _, index in order) == [0, 1, 2]
    shares = [order_of(6, 16, rank=rank, processes=2) for rank in (0, 1)]
    assert [len(share) for share in shares] == [3, 3]
    assert sorted(shares[0] + shares[1]) == list(range(6))


@pytest.mark.parametrize("length", [1, 2])
def test_fewer_samples_than_processes_still_give_every_process_a_step(length: int) -> None:
    shares = [order_of(length, 6, rank=rank, processes=3) for rank in range(3)]
    assert [len(share) for share in shares] == [1, 1, 1]
    assert {index for share in shares for index in share} == set(range(length))


def test_seeds_repeat_and_differ_for_any_other_numbers() -> None:
    numbers = [key for length in (1, 2, 3) for key in itertools.product((0, 1, 2, 7, 1000), repeat=length)]
    seeds = [seed_of(*key) for key in numbers]
    assert seeds == [seed_of(*key) for key in numbers]
    assert len(set(seeds)) == len(numbers)
    assert all(0 <= seed < 2**63 for seed in seeds)
