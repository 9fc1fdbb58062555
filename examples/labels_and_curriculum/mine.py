"""A weight of one's own: questions that take more listening come later."""

import numpy as np


def later_if_hard(cells, t, least=0.1):
    """[Q] a number per cell: as the stage begins (t = 0) `least` for the hardest, at its end (t = 1) 1 for all."""
    effort = cells.column("effort")
    return np.clip(1.0 - effort * (1.0 - t), least, 1.0)
