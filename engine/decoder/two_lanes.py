"""Stage 2 with two decoders: PyTorch for a few prompts, and vLLM in processes of its own for many.

Of few sequences our own decoder writes a token sooner than vLLM, and it is ready long before vLLM has loaded. Of many
sequences vLLM writes more tokens a second. So prompts wait until the next `poll`, and go to the fast lane if it has
room for all that wait and vLLM has none. While vLLM is loading, the fast lane takes as many as it has room for.
"""

import itertools
import logging
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..isolation import caught
from .base import POLL_S, DecodeParams, Decoder, DecodingCounts, DraftSource, Hypothesis
from .torch_decoder import TorchDecoder

CLOSE_TIMEOUT_S = 10.0  # for the thread that waits for vLLM

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A prompt that no lane has yet."""

    prompt_embeds: Tensor
    params: DecodeParams
    stream_tokens: bool
    draft: DraftSource | None


@dataclass(frozen=True, slots=True, eq=False)
class _Lane:
    """A decoder, and our ids of its prompts by its own."""

    decoder: Decoder
    ours: dict[int, int] = field(default_factory=dict)

    def poll(self, wait_s: float, wake: int | None) -> list[tuple[int, Hypothesis]]:
        return [(self.ours.pop(i), hypothesis) for i, hypothesis in self.decoder.poll(wait_s=wait_s, wake=wake)]


class TwoLaneDecoder:
    """Decodes a few prompts in the fast lane, and many in the large one."""

    def __init__(self, fast: TorchDecoder, large: Decoder) -> None:
        self.limits = fast.limits
        self._fast_decoder = fast
        self._fast, self._large = _Lane(fast), _Lane(large)
        self._waiting: dict[int, _Waiting] = {}
        self._ids = itertools.count()
        self._loading = threading.Thread(target=self._load, name="vllm-loading", daemon=True)
        self._failure: Exception | None = None  # why the large lane could not be loaded
        self._is_loaded = False

    def wait_until_ready(self) -> None:
        """Wait for the fast lane. The large one goes on loading; if it cannot, `poll` raises its error."""
        self._fast_decoder.wait_until_ready()
        self._loading.start()

    def wait_until_loaded(self) -> None:
        """Wait for the large lane too."""
        self._loading.join()

    def _load(self) -> None:
        failure = caught(self._large.decoder.wait_until_ready)
        if isinstance(failure, Exception):
            self._failure = failure
        else:
            self._is_loaded = True

    @property
    def max_pending(self) -> int:
        return self._large.decoder.max_pending if self._is_loaded else self._fast_decoder.max_pending

    @property
    def counts(self) -> DecodingCounts:
        """What the fast lane has decoded."""
        return self._fast_decoder.counts

    @property
    def num_pending(self) -> int:
        return len(self._waiting) + len(self._fast.ours) + len(self._large.ours)

    def submit(
        self,
        prompt_embeds: Tensor,
        params: DecodeParams,
        *,
        stream_tokens: bool = False,
        draft: DraftSource | None = None,
    ) -> int:
        self.limits.check(prompt_embeds, params)
        prompt_id = next(self._ids)
        self._waiting[prompt_id] = _Waiting(prompt_embeds, params, stream_tokens, draft)
        return prompt_id

    def poll(self, *, wait_s: float = POLL_S, wake: int | None = None) -> list[tuple[int, Hypothesis]]:
        if self._failure is not None:
            raise self._failure
        self._give_out()
        done = self._fast.poll(wait_s, wake)
        if self._is_loaded:
            is_busy = bool(done or self._fast.ours)
            done += self._large.poll(0 if is_busy else wait_s, wake)
        return done

    def partial_tokens(self, prompt_id: int) -> Sequence[int]:
        for lane in (self._fast, self._large):
            for theirs, ours in lane.ours.items():
                if ours == prompt_id:
                    return lane.decoder.partial_tokens(theirs)
        return ()

    def cancel(self, prompt_ids: Collection[int] | None = None) -> None:
        for lane in (self._fast, self._large):
            dropped = [theirs for theirs, ours in lane.ours.items() if prompt_ids is None or ours in prompt_ids]
            if dropped:
                lane.decoder.cancel(dropped)
            for theirs in dropped:
                del lane.ours[theirs]
        for prompt_id in list(self._waiting) if prompt_ids is None else prompt_ids:
            self._waiting.pop(prompt_id, None)

    def close(self) -> None:
        self._waiting.clear()
        self._large.decoder.close()
        if self._loading.is_alive():
            self._loading.join(CLOSE_TIMEOUT_S)
        self._fast.decoder.close()

    def _give_out(self) -> None:
        """Hand the prompts that wait to a lane."""
        room = self._fast_decoder.max_pending - len(self._fast.ours)
        lane, given = self._fast, list(self._waiting.items())
        if not self._is_loaded:
            given = given[:room]
        elif self._large.ours or len(given) > room:
            lane = self._large
        for prompt_id, waiting in given:
            del self._waiting[prompt_id]
            theirs = lane.decoder.submit(
                waiting.prompt_embeds, waiting.params, stream_tokens=waiting.stream_tokens, draft=waiting.draft
            )
            lane.ours[theirs] = prompt_id
