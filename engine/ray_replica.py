"""A replica of Ray Serve: whether it is well, and how it drains.

A replica that is to go away gets no more requests. Ray waits for those under way, among which it counts WebSocket
sessions, and kills the replica after graceful_shutdown_timeout_s, however busy it is. The replica is not told. So that
sessions end with their last text and a close code, it asks Ray's controller what becomes of it, and then does what the
server of process.py does at SIGTERM: drain_delay_s later, sessions are ended and requests refused.

It does not ask while the controller checks its health, because only replicas that stay are checked.
"""

import asyncio
import logging
import time
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client

from .errors import DecodeError
from .server.recognizer import Recognizer

HEALTH_S = 2.0  # between two checks of a replica's health; Ray replaces it after three that fail
UNCHECKED_S = 3 * HEALTH_S  # without a check, after which the replica asks the controller

log = logging.getLogger("twostage_asr.server")


class ReplicaState:
    """Of the replica of this process."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._watch: asyncio.Task[None] | None = None
        self._checked = time.monotonic()

    async def check(self) -> None:
        """What the controller calls every HEALTH_S. Raises DecodeError if the engine has failed."""
        self._checked = time.monotonic()
        self._watch = self._watch or asyncio.create_task(self._drain_when_told())
        if self._recognizer.service.failed:
            raise DecodeError("the engine has failed")

    async def _drain_when_told(self) -> None:
        while not await self._is_going():
            await asyncio.sleep(HEALTH_S)
        settings = self._recognizer.settings
        log.info("this replica is going away: it drains in %g s", settings.drain_delay_s)
        self._recognizer.is_leaving = True
        await asyncio.sleep(settings.drain_delay_s)
        self._recognizer.is_draining.set()

    async def _is_going(self) -> bool:
        if time.monotonic() < self._checked + UNCHECKED_S:
            return False
        context = serve.get_replica_context()
        try:
            details = await asyncio.to_thread(_details)
        except ray.exceptions.RayError as error:  # the controller is started anew, and the replica goes on meanwhile
            log.warning("Ray's controller does not say whether this replica stays: %s", error)
            return False
        deployment = details["applications"].get(context.app_name, {}).get("deployments", {}).get(context.deployment)
        states = {replica["replica_id"]: replica["state"] for replica in (deployment or {}).get("replicas", ())}
        return states.get(context.replica_tag) == "STOPPING"


def _details() -> dict[str, Any]:
    """Of all applications, as the schema ray.serve.schema.ServeInstanceDetails has them."""
    details: dict[str, Any] = _get_global_client().get_serve_details()
    return details
