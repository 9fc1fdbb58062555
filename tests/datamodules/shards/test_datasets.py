"""An index as a dataset of PyTorch: every row once, in order, however it is divided among processes."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
from torch.utils.data import DataLoader

from earwitness import IndexedSamples, QuestionDataset, ShardReader
from earwitness.datamodules.audio.waves import flac_bytes
from earwitness.datamodules.shards.index import build_index
from earwitness.errors import InputError
from earwitness.tests.datamodules.shards.test_index import pack, record, sound


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """40 questions, each about a recording of its own, in two shards."""
    folder = tmp_path_factory.mktemp("forty")
    for part in range(2):
        members = []
        for n in range(part * 20, part * 20 + 20):
            members.append((f"{n:02}.json", json.dumps(record(n)).encode()))
            members.append((f"{n:02}.flac", flac_bytes(sound(n, 1_600 + n))))
        pack(folder / f"{part}.tar", *members)
    build_index(str(folder))
    return folder / "index.arrow"


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("splitters", [(), (wds.split_by_worker,)], ids=["plain", "split_by_worker"])
def test_every_row_comes_once_whether_or_not_the_pipeline_divides_them_too(index, workers, splitters):
    source = IndexedSamples(ShardReader(index), range(40))
    pipeline = wds.DataPipeline(source, *splitters, wds.decode(only=["json"]))
    keys = [sample["__key__"] for sample in DataLoader(pipeline, batch_size=None, num_workers=workers)]
    assert keys == [f"s/{n}" for n in range(40)]


@pytest.mark.parametrize("workers", [0, 2])
def test_two_ranks_that_divide_the_rows_get_each_once(index, workers, monkeypatch):
    """As under DDP, where webdataset learns its rank from the environment."""
    keys = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        source = IndexedSamples(ShardReader(index), range(40))
        pipeline = wds.DataPipeline(source, wds.split_by_node, wds.split_by_worker)
        keys.append([sample["__key__"] for sample in DataLoader(pipeline, batch_size=None, num_workers=workers)])
    assert sorted(keys[0] + keys[1]) == sorted(f"s/{n}" for n in range(40))
    assert len(keys[0]) == len(keys[1]) == 20


@pytest.mark.parametrize("workers", [0, 2])
def test_a_plain_dataset_gives_waves_and_questions_in_the_order_of_its_rows(index, workers):
    rows = [7, 0, 39, 7]
    dataset = QuestionDataset(index, rows)
    assert len(dataset) == 4 and isinstance(dataset, torch.utils.data.Dataset)
    loader = DataLoader(dataset, batch_size=3, num_workers=workers, collate_fn=list)
    pairs = [pair for batch in loader for pair in batch]
    assert [question.id for _, question in pairs] == ["7", "0", "39", "7"]
    for (wave, _), row in zip(pairs, rows, strict=True):
        assert wave.dtype == np.float32 and np.array_equal(wave, sound(row, 1_600 + row))


def test_a_plain_dataset_is_indexed_as_a_list_is(index):
    dataset, like = QuestionDataset(ShardReader(index)), [str(n) for n in range(40)]
    assert len(dataset) == 40
    for place in (0, 39, -1, -40, 12):
        assert dataset[place][1].id == like[place]
    for place in (40, -41, 1_000):
        with pytest.raises(IndexError):
            dataset[place]
    assert [question.id for _, question in dataset] == like, "and a loop over it ends"
    again = pickle.loads(pickle.dumps(dataset))
    assert again[3][1] == dataset[3][1] and np.array_equal(again[3][0], dataset[3][0])
    assert len(QuestionDataset(index, [])) == 0
    for rows in ([40], [-1]):
        with pytest.raises(InputError, match=r"index\.arrow: rows go from 0 to 39"):
            QuestionDataset(index, rows)
