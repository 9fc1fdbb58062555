"""One exception for everything that comes from outside and is wrong."""

from __future__ import annotations

_MOST = 8_000  # letters; what a file holds may be longer


class InputError(ValueError):
    """Bad input: a corpus row, a shard, a recording, a checkpoint or a config key.

    The message names the thing and says what to do; the command line prints it alone, without a traceback, and exits
    with 1. A data-loader worker wraps an error's message in its own traceback when it sends it on: only the part after
    the class name is kept, so that the reader sees the same line whatever the number of workers.
    """

    def __init__(self, message: str) -> None:
        marker = f"{type(self).__name__}: "
        if message.startswith("Caught ") and marker in message:
            message = message[message.rindex(marker) + len(marker) :].strip()
        if len(message) > _MOST:
            message = f"{message[: _MOST // 2]} ... {message[-_MOST // 2 :]}"
        super().__init__(message)
