"""What tests ask of the events of a live session."""

from typing import Any

from twostage_asr.engine import Final, Partial, StreamingSession
from twostage_asr.engine.streaming import Event, TextSoFar


def hear(session: StreamingSession, pcm: Any, chunk: int) -> list[Event]:
    events = [event for start in range(0, len(pcm), chunk) for event in session.push(pcm[start : start + chunk])]
    return events + session.finish()


def finals(events: list[Event]) -> list[Final]:
    return [event for event in events if isinstance(event, Final)]


def require_nothing_retracted(events: list[Event]) -> None:
    """By segment, and in the one text of them all; where a segment was cut, its rest is confirmed for the next."""
    so_far, fixed, segment = TextSoFar(), "", 0
    for event, following in zip(events, [*events[1:], None], strict=True):
        assert event.segment == segment
        segment += isinstance(event, Final)
        so_far.add([event])
        if isinstance(event, Final) and isinstance(following, Partial):
            continue
        assert squeezed(so_far.text).startswith(fixed)
        fixed = squeezed(so_far.fixed_text)
        assert squeezed(so_far.text).startswith(fixed)


def squeezed(text: str) -> str:
    return "".join(text.split())
