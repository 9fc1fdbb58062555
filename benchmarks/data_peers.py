"""What peers take to deliver the same corpus, decoded; data.py starts it with an interpreter that has them.

    PYTHON benchmarks/data_peers.py SHARDS WORK SELECTED.json

litdata and mosaicml-streaming read their own formats, so the corpus is written once in each. Neither chooses samples
by content, so a selection is made after reading and before decoding, which is the best that can be done with them.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tarfile
import time
import types
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import soundfile


def samples(shards: str) -> Iterator[tuple[str, bytes, bytes]]:
    """Key, text and recording of every sample of the tars."""
    for path in sorted(Path(shards).glob("*.tar")):
        with tarfile.open(path, "r:") as tar:
            text = b""
            for member in tar:
                data = tar.extractfile(member).read()  # type: ignore[union-attr]
                if member.name.endswith(".json"):
                    text = data
                else:
                    yield member.name.partition(".")[0], text, data


def timed(read: Callable[[], Iterable[tuple[str, bytes]]], chosen: set[str]) -> float:
    """Decoded samples per CPU-second of the chosen ones."""
    start, count = time.process_time(), 0
    for key, data in read():
        if key in chosen:
            soundfile.read(io.BytesIO(data), dtype="float32")
            count += 1
    return count / (time.process_time() - start)


def litdata_reader(shards: str, work: Path) -> Callable[[], Iterator[tuple[str, bytes]]]:
    """Writes litdata chunks once; reads them shuffled."""
    import litdata
    from litdata.streaming.writer import BinaryWriter

    folder = work / "litdata"
    if not folder.exists():
        writer = BinaryWriter(str(folder), chunk_bytes="64MB")
        for number, (key, text, data) in enumerate(samples(shards)):
            writer[number] = {"key": key, "json": text, "flac": data}
        writer.done()
        writer.merge()

    def read() -> Iterator[tuple[str, bytes]]:
        for item in litdata.StreamingDataset(str(folder), shuffle=True, seed=1):
            json.loads(bytes(item["json"]))
            yield item["key"], bytes(item["flac"])

    return read


def mosaic_reader(shards: str, work: Path) -> Callable[[], Iterator[tuple[str, bytes]]]:
    """Writes MDS shards once; reads them shuffled. Its import needs a torchvision that it does not use here."""
    for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"):
        stub = types.ModuleType(name)
        stub.__spec__, stub.__file__ = ModuleSpec(name, None), __file__
        stub.__getattr__ = lambda attribute: type(attribute, (), {})  # type: ignore[method-assign]
        stub.__path__ = []  # type: ignore[attr-defined]
        sys.modules[name] = stub
    from streaming import MDSWriter, StreamingDataset

    folder = work / "mosaic"
    if not folder.exists():
        columns = {"key": "str", "json": "bytes", "flac": "bytes"}
        with MDSWriter(out=str(folder), columns=columns, size_limit=1 << 26) as writer:
            for key, text, data in samples(shards):
                writer.write({"key": key, "json": text, "flac": data})

    def read() -> Iterator[tuple[str, bytes]]:
        for item in StreamingDataset(local=str(folder), shuffle=True, shuffle_seed=1, batch_size=1):
            json.loads(item["json"])
            yield item["key"], item["flac"]

    return read


def main() -> None:
    """Prints a JSON object: peer -> version and samples per CPU-second at each selection."""
    shards, work, selected = sys.argv[1], Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text())
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found = {}
    for name, make in (("litdata", litdata_reader), ("mosaicml-streaming", mosaic_reader)):
        try:
            from importlib.metadata import version

            reader = make(shards, work)
            timed(reader, set())
            rates = {share: timed(reader, set(keys)) for share, keys in selected.items()}
            found[name] = {"version": version(name), "samples_per_cpu_s": rates}
        except Exception as error:  # a peer that does not install here is told, not hidden
            found[name] = {"missing": f"{type(error).__name__}: {error}"[:200]}
        shutil.rmtree(work / name.split("-")[0].replace("mosaicml", "mosaic"), ignore_errors=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
