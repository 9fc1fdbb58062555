"""The array types that signatures name. Docstrings give the shapes; a width is fixed only where it matters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]
Texts = npt.NDArray[np.str_]
Hashes = npt.NDArray[np.uint64]  # uids and what is hashed from them
