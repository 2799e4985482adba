"""A process that decodes for process_decoder.py.

It reads (LLMSource, VLLMOptions), builds the engine, answers with the number of prompts that keep it busy, and then

    reads   (ids, positions of each prompt, DecodeParams of each, all rows as bytes), or None: drop everything
    writes  [(id, Hypothesis), ...] as they finish

An ASRError that it writes is its last word.
"""

import contextlib
import queue
import select
import socket
import threading
from typing import Any

from ..console import quiet_libraries

quiet_libraries()  # before torch and vLLM are imported

import torch

from ..child import connect, receive, send
from ..errors import ASRError
from .vllm_decoder import VLLMDecoder

_END: Any = object()


class Outbox:
    """Sends in a thread, so that two ends with full buffers cannot wait for each other."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._messages: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, daemon=True)
        self._thread.start()

    def put(self, message: object) -> None:
        self._messages.put(message)

    def close(self) -> None:
        """Wait until everything is sent."""
        self._messages.put(_END)
        self._thread.join()

    def _send_all(self) -> None:
        while (message := self._messages.get()) is not _END:
            send(self._parent, message)


def main() -> None:
    """Answer until the parent has gone."""
    parent = connect()
    outbox = Outbox(parent)
    source, options = receive(parent)
    if options.device.type != "cpu":
        torch.set_num_threads(1)  # see threads.py
    try:
        decoder = VLLMDecoder(source, options)
        outbox.put(decoder.max_pending)
        serve(parent, decoder, outbox)
    except ASRError as error:
        outbox.put(error)
        outbox.close()


def serve(parent: socket.socket, decoder: VLLMDecoder, outbox: Outbox) -> None:
    """Decode what comes. Raises EOFError when the parent has gone, DecodeError when the engine fails."""
    their_id: dict[int, int] = {}  # by the decoder's
    while True:
        while not decoder.num_pending or select.select([parent], [], [], 0)[0]:
            message = receive(parent)
            if message is None:
                decoder.cancel()
                their_id.clear()
                continue
            ids, num_positions, params, rows = message
            embeds = torch.from_numpy(rows).view(decoder.limits.dtype).view(-1, decoder.limits.hidden_size)
            prompts = torch.split(embeds, num_positions)
            for prompt_id, prompt, own in zip(ids, prompts, params, strict=True):
                their_id[decoder.add(prompt, own)] = prompt_id
        done = decoder.poll()
        if done:
            outbox.put([(their_id.pop(prompt_id), hypothesis) for prompt_id, hypothesis in done])


if __name__ == "__main__":
    with contextlib.suppress(EOFError, ConnectionError):
        main()
