"""Stage 2 with two decoders: PyTorch for a few prompts, and vLLM in processes of its own for many.

Of few sequences our own decoder writes a token sooner than vLLM, and it is ready long before vLLM has loaded. Of many
sequences vLLM writes more tokens a second. So prompts wait until the next `poll`, and go to the fast lane if it has
room for all that wait and vLLM has none. While vLLM is loading, the fast lane takes as many as it has room for, and the
others wait, so that they go to vLLM once it is there.

Where both lanes share the same cores, vLLM is loaded only once prompts have to wait: until then it would take the cores
from the prompts that are being decoded, and a second time the memory of the weights. A job that has begun without it
also ends without it, if it cannot be loaded.
"""

import itertools
import logging
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..isolation import caught
from .backlog import Backlog
from .base import POLL_S, DecodeParams, Decoder, DecodingCounts, DraftSource, Hypothesis
from .torch_decoder import TorchDecoder, rows_for

CLOSE_TIMEOUT_S = 10.0  # for the thread that loads vLLM

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


class TwoLaneDecoder:
    """Decodes a few prompts in the fast lane, and many in the large one."""

    def __init__(self, fast: TorchDecoder, large: Decoder, *, loads_at_once: bool = True) -> None:
        """`loads_at_once`: the large lane loads from the start on, and not only when prompts have to wait."""
        self.limits = fast.limits
        self._fast_decoder = fast
        self._fast, self._large = _Lane(fast), _Lane(large)
        self._waiting: dict[int, _Waiting] = {}
        self._given: dict[int, tuple[_Lane, int]] = {}  # of each prompt that a lane has, the lane and its id there
        self._ids = itertools.count()
        self._loading = threading.Thread(target=self._load, name="vllm-loading", daemon=True)
        self._failure: Exception | None = None  # why the large lane could not be loaded
        self._is_loaded = self._is_closed = False
        self._loads_at_once = loads_at_once
        self._backlog = Backlog()

    def wait_until_ready(self) -> None:
        """Wait for the fast lane. If the large one cannot be loaded, a later `poll` raises its error."""
        self._fast_decoder.wait_until_ready()
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
        failure = caught(self._large.decoder.wait_until_ready)
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
        return self._large.decoder.max_pending if self._is_loaded else self._fast_decoder.max_pending

    @property
    def counts(self) -> DecodingCounts:
        """What the fast lane has decoded."""
        return self._fast_decoder.counts

    @property
    def num_pending(self) -> int:
        return len(self._waiting) + len(self._given)

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
        if not self._loads_at_once and self._backlog.lasts(bool(self._waiting)):
            self._begin_loading()
        # In a pause the fast lane prepares itself until `wake`, and the large one shall not wait for that.
        done = self._poll(self._fast, wait_s, None if self._large.ours else wake)
        if self._is_loaded:
            is_busy = bool(done or self._fast.ours)
            done += self._poll(self._large, 0 if is_busy else wait_s, wake)
        return done

    def partial_tokens(self, prompt_id: int) -> Sequence[int]:
        if prompt_id in self._waiting:
            return ()
        lane, theirs = self._given[prompt_id]
        return lane.decoder.partial_tokens(theirs)

    def cancel(self, prompt_ids: Collection[int] | None = None) -> None:
        lanes = (self._fast, self._large)
        if prompt_ids is None:  # a lane may have a prompt that Ctrl-C has kept from being noted here
            self._waiting.clear()
            self._given.clear()
            for lane in lanes:
                lane.ours.clear()
                lane.decoder.cancel()
            return
        for prompt_id in prompt_ids:
            self._waiting.pop(prompt_id, None)
        places = [self._given.pop(prompt_id) for prompt_id in prompt_ids if prompt_id in self._given]
        for lane in lanes:
            if theirs := [number for its, number in places if its is lane]:
                for number in theirs:
                    del lane.ours[number]
                lane.decoder.cancel(theirs)

    def close(self) -> None:
        self._is_closed = True
        self._waiting.clear()
        self._large.decoder.close()
        if self._loading.is_alive():
            self._loading.join(CLOSE_TIMEOUT_S)
        self._fast.decoder.close()

    def _give_out(self) -> None:
        """Hand the prompts that wait to a lane. None is left to wait within the fast lane."""
        waiting = list(self._waiting.items())
        if not waiting:
            return
        num_fitting = self._fast_decoder.num_fitting([rows_for(each.prompt_embeds, each.params) for _, each in waiting])
        lane, given = self._fast, waiting[:num_fitting]
        if self._is_loaded and (self._large.ours or num_fitting < len(waiting)):
            lane, given = self._large, waiting
        for prompt_id, each in given:
            del self._waiting[prompt_id]
            if lane is self._fast:
                theirs = self._fast_decoder.submit_checked(each.prompt_embeds, each.params, each.draft)
            else:
                theirs = lane.decoder.submit(
                    each.prompt_embeds, each.params, stream_tokens=each.stream_tokens, draft=each.draft
                )
            lane.ours[theirs] = prompt_id
            self._given[prompt_id] = lane, theirs

    def _poll(self, lane: _Lane, wait_s: float, wake: int | None) -> list[tuple[int, Hypothesis]]:
        done = [(lane.ours.pop(i), hypothesis) for i, hypothesis in lane.decoder.poll(wait_s=wait_s, wake=wake)]
        for prompt_id, _ in done:
            del self._given[prompt_id]
        return done
