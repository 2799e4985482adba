"""A worker process that decodes for process_decoder.py.

It receives (LLMSource, VLLMOptions, file descriptor of a PromptMemory), builds the engine and sends its `max_pending`.
After that it

    receives  (ids, number of positions of each prompt, DecodeParams of each, `stream_tokens` of each,
              all rows as bytes, or the offset in the PromptMemory where they begin)
              or a list of ids to cancel
    sends     ([(id, Hypothesis), ...] of finished prompts, [(id, new tokens), ...] of followed ones) when either list
              has an entry, and otherwise once in NEWS_S while tokens are generated, so that the parent sees progress

If it fails, it sends an ASRError as its last message.
"""

import contextlib
import queue
import select
import socket
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any

from ..console import quiet_libraries
from ..worker_process import connect, end_with_any, receive, send

quiet_libraries()  # before torch and vLLM are imported
if __name__ == "__main__":
    parent = connect()  # as well: from here on this process ends with its parent, and those imports take seconds

import numpy as np
import torch

from ..arena import Arena
from ..errors import ASRError, DecodeError
from .base import DecodeParams, Prompt
from .vllm_decoder import VLLMDecoder

NEWS_S = 1.0  # interval of messages that only report progress

_END: Any = object()


class Outbox:
    """Sends in its own thread, so that parent and worker cannot deadlock when both socket buffers are full."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._messages: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, daemon=True)
        self._thread.start()

    def put(self, message: object) -> None:
        self._messages.put(message)

    def close(self) -> None:
        """Wait until all messages are sent."""
        self._messages.put(_END)
        self._thread.join()

    def _send_all(self) -> None:
        while (message := self._messages.get()) is not _END:
            send(self._parent, message)


def main(parent: socket.socket) -> None:
    """Decode until the parent process ends."""
    outbox = Outbox(parent)
    source, options, memory = receive(parent)
    if options.device.type != "cpu":
        torch.set_num_threads(1)  # see acoustic/threads.py
    try:
        decoder = VLLMDecoder(source, options)
        end_with_any(lambda which: _fail(outbox, DecodeError(f"vLLM's engine: {which}; its log says why")))
        outbox.put(decoder.max_pending)
        serve(parent, _Prompts(decoder, Arena(memory)), outbox)
    except ASRError as error:
        _fail(outbox, error)


def _fail(outbox: Outbox, error: ASRError) -> None:
    outbox.put(error)
    outbox.close()


def serve(parent: socket.socket, prompts: "_Prompts", outbox: Outbox) -> None:
    """Decode prompts as they come. Raises EOFError when the parent has ended, DecodeError when the engine fails."""
    decoder = prompts.decoder
    asked = select.poll()
    asked.register(parent, select.POLLIN)
    num_told, told_s = 0, 0.0
    while True:
        while not decoder.num_pending or asked.poll(0):
            message = receive(parent)
            if isinstance(message, list):
                prompts.drop(message)
            else:
                prompts.add(*message)
        done = decoder.poll()
        written = prompts.written_by_now({prompt_id for prompt_id, _ in done})
        is_news = decoder.num_tokens > num_told and time.monotonic() > told_s + NEWS_S
        if done or written or is_news:
            num_told, told_s = decoder.num_tokens, time.monotonic()
            outbox.put((done, written))


class _Prompts:
    """The decoder's pending prompts."""

    def __init__(self, decoder: VLLMDecoder, memory: Arena) -> None:
        self.decoder = decoder
        self._memory = memory
        self._num_told: dict[int, int] = {}  # tokens already sent of each followed prompt

    def add(
        self,
        ids: list[int],
        num_positions: list[int],
        params: Sequence[DecodeParams],
        followed: Sequence[bool],
        rows: np.ndarray | int,
    ) -> None:
        limits = self.decoder.limits
        size = sum(num_positions) * limits.hidden_size * limits.dtype.itemsize
        data = self._memory.bytes[rows : rows + size] if isinstance(rows, int) else rows
        prompts = torch.split(torch.from_numpy(data).view(limits.dtype).view(-1, limits.hidden_size), num_positions)
        for prompt_id, prompt, own, is_followed in zip(ids, prompts, params, followed, strict=True):
            self.decoder.add(prompt_id, Prompt(prompt, own))
            if is_followed:
                self._num_told[prompt_id] = 0

    def drop(self, ids: Collection[int]) -> None:
        self.decoder.cancel(ids)
        self._forget(ids)

    def written_by_now(self, done: Collection[int]) -> list[tuple[int, list[int]]]:
        """New tokens of the followed prompts that are not in `done`."""
        self._forget(done)
        written = []
        for prompt_id, num_told in self._num_told.items():
            if new := list(self.decoder.partial_tokens(prompt_id)[num_told:]):
                written.append((prompt_id, new))
                self._num_told[prompt_id] += len(new)
        return written

    def _forget(self, ids: Collection[int]) -> None:
        for prompt_id in ids:
            self._num_told.pop(prompt_id, None)


if __name__ == "__main__":
    with contextlib.suppress(EOFError, ConnectionError):
        main(parent)
