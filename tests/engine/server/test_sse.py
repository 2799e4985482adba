"""What a transcription tells, and a client that takes it more slowly than it comes."""

import asyncio
from collections.abc import Callable

import pytest

from twostage_asr.engine import Transcript
from twostage_asr.engine.errors import AudioError
from twostage_asr.engine.server.sse import followed

DONE = Transcript(key="audio", text="0123")


async def spoken(tell: Callable[[str], None]) -> Transcript:
    """Two pieces of news at once, twice."""
    for pair in ("01", "23"):
        for news in pair:
            tell(news)
        await asyncio.sleep(0)
    return DONE


@pytest.mark.parametrize(("only_newest", "taken"), [(False, ["0", "1", "2", "3", DONE]), (True, ["1", "3", DONE])])
def test_news_wait_for_the_client_all_of_them_or_the_newest(only_newest: bool, taken: list[object]) -> None:
    async def take() -> list[object]:
        return [news async for news in followed(spoken, only_newest=only_newest)]

    assert asyncio.run(take()) == taken


def test_a_failure_comes_after_the_news() -> None:
    taken = []

    async def fails(tell: Callable[[str], None]) -> Transcript:
        tell("0")
        raise AudioError("damaged")

    async def take() -> None:
        async for news in followed(fails):
            taken.append(news)

    with pytest.raises(AudioError, match="damaged"):
        asyncio.run(take())
    assert taken == ["0"]


def test_a_client_that_leaves_ends_the_transcription() -> None:
    async def leave() -> bool:
        is_cancelled = asyncio.Event()

        async def endless(tell: Callable[[str], None]) -> Transcript:
            tell("0")
            try:
                await asyncio.Event().wait()
            finally:
                is_cancelled.set()
            return DONE

        news = followed(endless)
        await anext(news)
        await news.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        return is_cancelled.is_set()

    assert asyncio.run(leave())
