"""What is told where a gradient is not a number: which samples the step was about, in a file, and one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from ...boundary.files import write_text
from ...datamodules.batch import Sample
from ...errors import InputError
from ..ranks import Ranks


def refuse_step(
    step: int, norm: float, losses: Sequence[float], samples: Sequence[Sequence[Sample]], ranks: Ranks, folder: Path
) -> InputError:
    """The error to raise, once `not-finite-step-N.json` is written into the folder; all ranks must enter.

    losses, samples: of every micro-batch here. The file names those whose loss is not finite, or, where all losses are
    finite and the gradient alone is not, all samples of the step.
    """
    parts = zip(losses, samples, strict=True) if samples else ()
    here = [
        {"rank": ranks.rank, "loss": str(loss), "key": s.question.key, "uid": s.question.uid, "row": s.row}
        for loss, part in parts
        for s in part
    ]
    everywhere = [record for records in ranks.gathered(here) for record in records]
    bad = [record for record in everywhere if not math.isfinite(float(str(record["loss"])))]
    path = folder / f"not-finite-step-{step}.json"
    if ranks.rank == 0:
        write_text(path, json.dumps({"step": step, "gradient": str(norm), "samples": bad or everywhere}, indent=1))
    what = f"the loss of {len(bad)} of its {len(everywhere)} samples" if bad else "its gradient, and no loss,"
    first = f", {(bad or everywhere)[0]['key']!r} the first" if everywhere else ""
    return InputError(
        f"step {step}: {what} is not finite, and the weights were left as they are; {path} lists the samples{first}; "
        "leave them out, or lower optimizer.init_args.lr"
    )
