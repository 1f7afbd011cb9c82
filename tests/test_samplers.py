"""Which sample comes when."""

import pytest
from torch.utils.data import DataLoader

from seggrid.data.samplers import EvalSampler, Key, TrainBatchSampler


def _epoch(sampler: TrainBatchSampler, epoch: int) -> list[list[Key]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def _indices(batches: list[list[Key]]) -> list[int]:
    return [index for batch in batches for _, index in batch]


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    first, second = TrainBatchSampler(20, 4, seed=3), TrainBatchSampler(20, 4, seed=3)
    _epoch(first, 0), _epoch(first, 1)
    assert _epoch(first, 2) == _epoch(second, 2)
    orders = [_indices(_epoch(TrainBatchSampler(20, 4, seed), epoch)) for seed in (3, 4) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(20)) for order in orders)


def test_every_key_carries_its_epoch() -> None:
    assert {epoch for batch in _epoch(TrainBatchSampler(8, 4, seed=0), 5) for epoch, _ in batch} == {5}


@pytest.mark.parametrize(("size", "world_size", "batches"), [(24, 2, 3), (27, 2, 3), (31, 3, 2), (8, 2, 1), (7, 2, 0)])
def test_processes_share_an_epoch_without_overlap(size: int, world_size: int, batches: int) -> None:
    samplers = [TrainBatchSampler(size, 4, seed=0, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [_epoch(sampler, 1) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(share) for share in shares] == [batches] * world_size
    assert all(len(batch) == 4 for share in shares for batch in share)  # the incomplete ones are left out
    drawn = [index for share in shares for index in _indices(share)]
    assert len(set(drawn)) == len(drawn) == batches * 4 * world_size
    if size == 24:
        assert sorted(drawn) == list(range(24))


def test_processes_together_draw_what_one_process_would() -> None:
    alone = _indices(_epoch(TrainBatchSampler(16, 8, seed=1), 0))
    shares = [_epoch(TrainBatchSampler(16, 4, seed=1, rank=rank, world_size=2), 0) for rank in (0, 1)]
    assert [index for pair in zip(*shares, strict=True) for batch in pair for _, index in batch] == alone


@pytest.mark.parametrize("start", [0, 1, 4])
def test_a_resumed_epoch_is_the_tail_of_the_whole_one_and_the_next_is_whole(start: int) -> None:
    whole = TrainBatchSampler(23, 4, seed=0)
    resumed = TrainBatchSampler(23, 4, seed=0, start=start)
    assert len(resumed) == len(whole) == 5
    assert _epoch(resumed, 3) == _epoch(whole, 3)[start:]
    assert _epoch(resumed, 4) == _epoch(whole, 4)


def test_lightning_finds_set_epoch_where_it_looks() -> None:
    sampler = TrainBatchSampler(8, 4, seed=0)
    loader = DataLoader([0] * 8, batch_sampler=sampler)
    loader.batch_sampler.sampler.set_epoch(6)
    assert sampler.epoch == 6


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_evaluation_takes_each_of_nine_samples_once(world_size: int) -> None:
    samplers = [EvalSampler(9, rank, world_size) for rank in range(world_size)]
    keys = [key for sampler in samplers for key in sampler]
    assert sum(len(sampler) for sampler in samplers) == 9
    assert sorted(keys) == [(0, index) for index in range(9)]
