"""Draws what benchmarks found and writes its numbers into the page on speed.

    python benchmarks/pictures.py                 docs/speed.md and docs/pictures/ from benchmarks/results/
    python benchmarks/pictures.py --results FOLDER --docs FOLDER

The page keeps its words; between `<!-- picture: NAME -->` and `<!-- end -->` stands what this script writes: the
picture, its text for those who do not see it, and sentences with numbers. A picture without results is left out.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from earwitness.benchmarks import figures, figures_of_data
from earwitness.benchmarks.drawing import Figure, draw

HERE = Path(__file__).resolve().parent
LOSSES = "linear_logprob-cpu.json"
# Name of a picture -> the file that it is made of, and how.
PICTURES: dict[str, tuple[str, Callable[[Any], Figure]]] = {
    "swift": ("swift.json", figures.swift),
    "grpo-step": ("grpo_step.json", figures.grpo_step),
    "sampling": ("sampling.json", figures.sampling),
    "cross-entropy": (LOSSES, figures.cross_entropy),
    "grpo-loss": (LOSSES, figures.grpo_loss),
    "log-probs": (LOSSES, figures.log_probs),
    "truncated": (LOSSES, figures.truncated),
    "features": ("data.json", figures_of_data.features),
    "access": ("data.json", figures_of_data.access),
    "decoding": ("data.json", figures_of_data.decoding),
    "curriculum": ("curriculum.json", figures_of_data.curriculum),
    "build": ("build.json", figures_of_data.build),
    "labels": ("labels.json", figures.labels),
    "gpu-losses": ("linear_logprob-gpu.json", figures_of_data.gpu_losses),
    "gpu-sampling": ("sampling-gpu.json", partial(figures.sampling, gpu=True)),
    "gpu-steps": ("steps-gpu.json", figures_of_data.gpu_steps),
}
MISSING = {
    "swift": "ms-swift was not measured: it was not installed.",
    "gpu-losses": "No figure of a GPU exists yet; `make gpu` measures them.",
}
NO_GPU = "No figure of a GPU exists."
BLOCK = re.compile(r"(<!-- picture: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def drawn(results: Path) -> dict[str, Figure]:
    """Name -> figure of every picture whose results are there."""
    found = {}
    for name, (file, make) in PICTURES.items():
        path = results / file
        if path.exists():
            found[name] = make(json.loads(path.read_text()))
    if not any(name.startswith("gpu-") for name in found):
        for figure in found.values():
            figure.notes = [*figure.notes, NO_GPU]
    return found


def written(page: str, found: dict[str, Figure]) -> str:
    """The page with every block filled anew; ValueError where it lacks a picture or names one that is not known."""
    named = [name for _, name, _ in BLOCK.findall(page)]
    if sorted(named) != sorted(PICTURES):
        raise ValueError(f"the page's pictures are {sorted(named)}, wanted are {sorted(PICTURES)}, each once")

    def filled(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        figure = found.get(name)
        if figure is None:
            text = MISSING.get(name, "")
        else:
            shown = figure.described().replace("[", "(").replace("]", ")").replace("`", "")
            text = f"![{figure.title}. {shown}](pictures/{name}.svg)"
            text += f"\n\n{figure.said}" if figure.said else ""
        return f"{begin}\n{text}\n\n{end}" if text else f"{begin}{end}"

    return BLOCK.sub(filled, page)


def main() -> None:
    """Writes the page and its pictures; pictures of earlier results that have no block any more are removed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs")
    given = parser.parse_args()
    found = drawn(given.results)
    folder, page = given.docs / "pictures", given.docs / "speed.md"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    for name, figure in found.items():
        (folder / f"{name}.svg").write_text(draw(figure))
    page.write_text(written(page.read_text(), found))
    print(f"{len(found)} pictures in {folder}")


if __name__ == "__main__":
    main()
