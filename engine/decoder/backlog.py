"""When prompts have waited so long that loading another engine for them pays."""

import time

# An engine takes 20 to 40 s of all cores to load, which a shorter job never gets back.
BACKLOG_S = 5.0


class Backlog:
    """Watches whether prompts wait."""

    def __init__(self) -> None:
        self._since: float | None = None

    def lasts(self, is_waiting: bool) -> bool:
        """Whether prompts have been waiting for BACKLOG_S, according to all calls since then."""
        now = time.monotonic()
        if not is_waiting:
            self._since = None
        elif self._since is None:
            self._since = now
        return self._since is not None and now > self._since + BACKLOG_S
