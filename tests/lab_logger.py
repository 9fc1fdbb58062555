"""A logger of a lab's own whose server does not answer."""

from __future__ import annotations

from lightning.pytorch.loggers import CSVLogger


class Unreachable(CSVLogger):
    """Says so as soon as it is made, as loggers do that open their run there."""

    def __init__(self) -> None:
        raise RuntimeError("nobody answers at http://nowhere")
