"""Stage 2 with two decoders: PyTorch for a few prompts, and vLLM in processes of its own for many.

Of few sequences our own decoder writes a token sooner than vLLM, and it is ready long before vLLM has loaded. Of many
sequences vLLM writes more tokens a second. So prompts wait until the next `poll`, and go to the fast lane if it has
room for all that wait and vLLM has none. While vLLM is loading, the fast lane takes as many as it has room for, and the
others wait, so that they go to vLLM once it is there.

Where both lanes share the same cores, vLLM is loaded only once prompts have to wait: until then it would take the cores
from the prompts that are being decoded, and a second time the memory of the weights. A job that has begun without it
also ends without it, if it cannot be loaded.
"""

import logging
import threading
from collections.abc import Collection, Sequence

from ..isolation import caught
from .backlog import Backlog
from .base import POLL_S, Decoder, DecodingCounts, Hypothesis, Prompt
from .torch_decoder import TorchDecoder

CLOSE_TIMEOUT_S = 10.0  # for the thread that loads vLLM

logger = logging.getLogger(__name__)


class TwoLaneDecoder(Decoder):
    """Decodes a few prompts in the fast lane, and many in the large one."""

    def __init__(self, fast: TorchDecoder, large: Decoder, *, loads_at_once: bool = True) -> None:
        """`loads_at_once`: the large lane loads from the start on, and not only when prompts have to wait."""
        self.limits = fast.limits
        self._fast, self.large = fast, large
        self._waiting: dict[int, Prompt] = {}  # that no lane has yet
        self._lanes: dict[int, Decoder] = {}  # of the other prompts
        self._loading = threading.Thread(target=self._load, name="vllm-loading", daemon=True)
        self._failure: Exception | None = None  # why the large lane could not be loaded
        self._is_loaded = self._is_closed = False
        self._loads_at_once = loads_at_once
        self._backlog = Backlog()

    def wait_until_ready(self) -> None:
        """Wait for the fast lane. If the large one cannot be loaded, a later `poll` raises its error."""
        self._fast.wait_until_ready()
        if self._loads_at_once:
            self._begin_loading()

    def wait_until_loaded(self) -> None:
        """Load the large lane too, and wait for it."""
        self._begin_loading()
        self._loading.join()

    def _begin_loading(self) -> None:
        if self._loading.ident is None:  # not started
            self._loading.start()

    def _load(self) -> None:
        failure = caught(self.large.wait_until_ready)
        if not isinstance(failure, Exception):
            self._is_loaded = True
            logger.debug("loading: vLLM is ready too")
        elif self._is_closed:
            logger.debug("loading: the model was closed before vLLM was ready")
        elif self._loads_at_once:
            self._failure = failure
        else:
            logger.warning("vLLM cannot be loaded, and the prompts are decoded without it: %s", failure)

    @property
    def max_pending(self) -> int:
        return (self.large if self._is_loaded else self._fast).max_pending

    @property
    def counts(self) -> DecodingCounts:
        """What the fast lane has decoded."""
        return self._fast.counts

    @property
    def num_pending(self) -> int:
        return len(self._waiting) + len(self._lanes)

    def add(self, prompt_id: int, prompt: Prompt) -> None:
        self._waiting[prompt_id] = prompt

    def poll(self, *, wait_s: float = POLL_S, wake: int | None = None) -> list[tuple[int, Hypothesis]]:
        if self._failure is not None:
            raise self._failure
        self._give_out()
        if not self._loads_at_once and self._backlog.lasts(bool(self._waiting)):
            self._begin_loading()
        # In a pause the fast lane prepares itself until `wake`, and the large one shall not wait for that.
        done = self._fast.poll(wait_s=wait_s, wake=None if self.large.num_pending else wake)
        if self._is_loaded:
            is_busy = bool(done or self._fast.num_pending)
            done += self.large.poll(wait_s=0 if is_busy else wait_s, wake=wake)
        for prompt_id, _ in done:
            del self._lanes[prompt_id]
        return done

    def partial_tokens(self, prompt_id: int) -> Sequence[int]:
        return () if prompt_id in self._waiting else self._lanes[prompt_id].partial_tokens(prompt_id)

    def cancel(self, prompt_ids: Collection[int] | None = None) -> None:
        for prompt_id in [*self._waiting, *self._lanes] if prompt_ids is None else prompt_ids:
            self._waiting.pop(prompt_id, None)
            self._lanes.pop(prompt_id, None)
        for lane in (self._fast, self.large):
            lane.cancel(prompt_ids)

    def close(self) -> None:
        self._is_closed = True
        self._waiting.clear()
        self.large.close()
        if self._loading.is_alive():
            self._loading.join(CLOSE_TIMEOUT_S)
        self._fast.close()

    def _give_out(self) -> None:
        """Hand the prompts that wait to a lane. None is left to wait within the fast lane."""
        if not self._waiting:
            return
        lane: Decoder = self._fast
        num_given = self._fast.num_fitting([prompt.size for prompt in self._waiting.values()])
        if self._is_loaded and (self.large.num_pending or num_given < len(self._waiting)):
            lane, num_given = self.large, len(self._waiting)
        for prompt_id in list(self._waiting)[:num_given]:
            prompt = self._waiting.pop(prompt_id)
            self._lanes[prompt_id] = lane
            lane.add(prompt_id, prompt)
