"""One worker process with a vLLM engine, as process_decoder.py sees it.

Every wait for the process has a limit. A step of vLLM cannot be interrupted, so the process of an engine that stands
still is terminated. After a failure each further use raises the same error.
"""

import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import ASRError, DecodeError
from ..worker_process import Child, receive, send, start_child, wait_readable
from .base import DecodeParams, Hypothesis
from .prompt_memory import Piece, PromptMemory

WORKER = f"{__package__}.worker"
PROMPT_BYTES = 512 << 20  # shared memory for the prompts of one engine; prompts that do not fit go through the socket
LOAD_TIMEOUT_S = 1800.0  # for loading an engine; compilation takes minutes, and so can weights on a slow disk


@dataclass(slots=True, eq=False)
class Pending:
    """A pending prompt."""

    embeds: Tensor  # (P, hidden_size); once it is sent, its rows of the shared memory
    params: DecodeParams
    stream_tokens: bool
    is_second_try: bool = False  # the first engine that had it has failed
    submitted: float = field(default_factory=time.monotonic)
    written: list[int] = field(default_factory=list)  # tokens so far, if it was submitted with `stream_tokens`
    piece: Piece | None = None  # the shared memory that holds it, once it is sent


@dataclass(slots=True, eq=False)
class EngineProcess:
    """A worker process, and the prompts that it has."""

    child: Child
    memory: PromptMemory
    stall_timeout_s: float
    max_pending: int = 0  # prompts that keep it busy; known once it is ready
    failure: str = ""  # why the engine was given up
    started: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)  # time of its last message, or when prompts ended its idleness
    outbox: dict[int, Pending] = field(default_factory=dict)
    pending: dict[int, Pending] = field(default_factory=dict)  # includes those in the outbox

    @classmethod
    def start(cls, stall_timeout_s: float) -> "EngineProcess":
        memory = PromptMemory(PROMPT_BYTES)
        child = start_child(WORKER, pass_fds=(memory.file_descriptor,))
        whole_s = int(stall_timeout_s)
        limit = struct.pack("ll", whole_s, int(1e6 * (stall_timeout_s - whole_s)))
        for direction in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            child.socket.setsockopt(socket.SOL_SOCKET, direction, limit)
        return cls(child, memory, stall_timeout_s)

    def wait_until_ready(self) -> None:
        """Wait until the engine is loaded. Raises ASRError."""
        if not wait_readable([self.fileno()], LOAD_TIMEOUT_S):
            raise self._not_loaded()
        self.max_pending = self.receive()

    def check_loading(self) -> None:
        """Called when a loading engine has sent nothing. Raises DecodeError if it takes too long."""
        if time.monotonic() > self.started + LOAD_TIMEOUT_S:
            raise self._not_loaded()

    def add(self, prompt_id: int, prompt: Pending) -> None:
        """Take a prompt, to be sent by the next `flush`."""
        self.outbox[prompt_id] = self.pending[prompt_id] = prompt

    def flush(self) -> None:
        """Send the prompts that were added since the last call. Raises DecodeError."""
        if not self.outbox:
            return
        if len(self.outbox) == len(self.pending):
            self.heard = time.monotonic()
        prompts = list(self.outbox.values())
        embeds, lengths = [prompt.embeds for prompt in prompts], [len(prompt.embeds) for prompt in prompts]
        piece = self.memory.write(embeds)
        if piece is not None:
            for prompt, rows in zip(prompts, torch.split(piece.rows, lengths), strict=True):
                prompt.piece, prompt.embeds = piece, rows
        # NumPy has no bfloat16.
        sent = piece.start if piece is not None else torch.cat(embeds).view(torch.uint8).numpy()
        params, followed = [prompt.params for prompt in prompts], [prompt.stream_tokens for prompt in prompts]
        self.send((list(self.outbox), lengths, params, followed, sent))
        self.outbox.clear()

    def news(self) -> list[tuple[int, Hypothesis]]:
        """Receive a message: the prompts that are finished. Raises ASRError."""
        finished, written = self.receive()
        # Tokens of cancelled prompts may still arrive.
        for prompt_id, token_ids in written:
            if prompt_id in self.pending:
                self.pending[prompt_id].written += token_ids
        return [(i, hypothesis) for i, hypothesis in finished if self.forget(i)]

    def forget(self, prompt_id: int) -> bool:
        """Remove a prompt and release its memory. Returns whether it was pending."""
        prompt = self.pending.pop(prompt_id, None)
        if prompt is not None and prompt.piece is not None:
            self.memory.release(prompt.piece)
        return prompt is not None

    def close(self) -> None:
        """Stop the process."""
        self.child.close()
        self.memory.close()

    def fileno(self) -> int:
        """The socket's file descriptor. Raises DecodeError if the engine was given up."""
        if self.failure:
            raise DecodeError(self.failure)
        return self.child.socket.fileno()

    def check_progress(self) -> None:
        """Called when no message has come. Raises DecodeError if prompts have been waiting too long for one."""
        is_asked = len(self.pending) > len(self.outbox)
        if is_asked and time.monotonic() > self.heard + self.stall_timeout_s:
            raise self._stalled()

    def send(self, message: object) -> None:
        """Send a message. Raises DecodeError if the engine does not read it in time.

        If the process has ended, this does nothing: `receive` raises the error, with the reason that the engine sent.
        """
        self.fileno()  # raises if the engine was given up
        try:
            send(self.child.socket, message)
        except BlockingIOError as error:  # the socket's timeout
            raise self._stalled() from error
        except OSError:  # the process has ended; a message that says why may be waiting in the socket
            pass

    def receive(self) -> Any:
        """The next message. Raises the ASRError that the engine sent, or DecodeError if it ended without one."""
        try:
            message = receive(self.child.socket)
        except BlockingIOError as error:
            raise self._stalled() from error
        except (EOFError, OSError) as error:
            self.child.close()
            status = self.child.process.returncode
            raise self._given_up(f"a process of vLLM's engine ended, exit status {status}; its log says why") from error
        self.heard = time.monotonic()
        if isinstance(message, ASRError):
            self._given_up(str(message))
            raise message
        return message

    def _given_up(self, reason: str) -> DecodeError:
        """Stop the process, and return the error to raise; every later call raises the same error."""
        self.child.close()
        self.failure = reason
        return DecodeError(reason)

    def _not_loaded(self) -> DecodeError:
        return self._given_up(f"vLLM's engine has not loaded within {LOAD_TIMEOUT_S:.0f} s")

    def _stalled(self) -> DecodeError:
        now = time.monotonic()
        oldest_s = now - min((prompt.submitted for prompt in self.pending.values()), default=now)
        return self._given_up(
            f"vLLM's engine (process {self.child.process.pid}) has written no token for {now - self.heard:.1f} s and "
            f"was ended; prompts that wait for it: {len(self.pending)}, the oldest for {oldest_s:.1f} s. If one step "
            f"can take so long here, raise stall_timeout_s, now {self.stall_timeout_s:g}"
        )
