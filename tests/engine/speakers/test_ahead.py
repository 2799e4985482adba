"""The windows of a long recording are grouped before it has ended, with the same result."""

import random
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import pytest

from tests.fake_model import samples
from tests.fake_voices import FakeVoices
from twostage_asr.engine.run_options import SpeakerSettings
from twostage_asr.engine.speakers import ahead, clustering, stage
from twostage_asr.engine.speakers.clustering import GroupsOf, SpeakerCount
from twostage_asr.engine.speakers.diarize import Diarized, Stretch, diarize
from twostage_asr.engine.speakers.model import Embeddings
from twostage_asr.engine.speakers.stage import SpeakerStage
from twostage_asr.engine.transcript import Segment, Transcript, Word

BLOCK = 16  # windows
CLIP_S = 4.0  # five windows
END = -1


def clip_of(place: int) -> Segment:
    start = 10.0 * place
    word = Word("word", start, start + CLIP_S, 0.9)
    return Segment(start, start + CLIP_S, word.text, (word,), 0.9)


def run(spoken: Sequence[bool], order: Sequence[int], *, tells: bool) -> Transcript:
    """Clips by two speakers in turns, of which some say nothing; stage 2 finishes them in this order."""
    segments = tuple(clip_of(place) for place in range(len(spoken)) if spoken[place])
    with SpeakerStage(FakeVoices(), SpeakerSettings()) as speakers:
        for place in range(len(spoken)):
            speakers.add(0, 10.0 * place, samples(1 + place % 2, CLIP_S), None)
        for place in order:
            if tells:
                speakers.told(0, 10.0 * place, None, is_spoken=spoken[place])
        speakers.finish(0, Transcript("meeting", duration=10.0 * len(spoken), segments=segments))
        ((_, transcript),) = speakers.rest()
    return transcript


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the blocks that are grouped, and END where the whole recording begins to be grouped."""
    sizes: list[int] = []
    group = clustering.block_groups

    def counted(points: Embeddings) -> clustering.Labels:
        sizes.append(len(points))
        return group(points)

    def at_the_end(stretches: Sequence[Stretch], count: SpeakerCount, groups_of: GroupsOf) -> Diarized:
        sizes.append(END)
        return diarize(stretches, count, counted if groups_of is group else groups_of)

    monkeypatch.setattr(clustering, "MAX_POINTS", BLOCK)
    monkeypatch.setattr(ahead, "MAX_POINTS", BLOCK)
    monkeypatch.setattr(ahead, "block_groups", counted)
    monkeypatch.setattr(stage, "diarize", at_the_end)
    return sizes


def test_only_what_is_no_full_block_is_grouped_at_the_end(blocks: list[int]) -> None:
    spoken = [place % 5 != 3 for place in range(15)]  # 12 clips, 60 windows
    order = list(range(15))
    random.Random(0).shuffle(order)
    found = run(spoken, order, tells=True)
    assert blocks[:5] == [BLOCK, BLOCK, BLOCK, END, 60 - 3 * BLOCK]
    assert [segment.speaker for segment in found.segments] == [
        f"SPK{place % 2}" for place in range(15) if spoken[place]
    ]


def test_it_makes_no_difference_to_the_speakers(blocks: list[int]) -> None:
    spoken = [place != 4 for place in range(15)]
    assert run(spoken, range(15), tells=True) == run(spoken, range(15), tells=False)
    assert blocks.index(END) == 4 and blocks[5] < BLOCK  # told: four full blocks of 70 windows
    untold = blocks[blocks.index(END, 5) + 1 :]
    assert untold[:4] == [BLOCK] * 4


def test_a_wrong_word_about_what_is_spoken_costs_no_more_than_time(blocks: list[int]) -> None:
    spoken = [True] * 15
    right = run(spoken, range(15), tells=True)
    with SpeakerStage(FakeVoices(), SpeakerSettings()) as speakers:
        for place in range(15):
            speakers.add(0, 10.0 * place, samples(1 + place % 2, CLIP_S), None)
            speakers.told(0, 10.0 * place, None, is_spoken=place % 2 == 0)
            speakers.told(0, 10.0 * place + 1.0, None, is_spoken=True)  # there is no such clip
        segments = tuple(clip_of(place) for place in range(15))
        speakers.finish(0, Transcript("meeting", duration=150.0, segments=segments))
        ((_, wrong),) = speakers.rest()
    assert wrong == right


def test_what_waits_for_a_block_is_less_than_one(blocks: list[int]) -> None:
    class Thread(Executor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            return Future()

    groups = ahead.GroupsAhead(Thread())
    rows = np.eye(8, dtype=np.float32)[:5]
    for place in range(100):
        groups.add(place)
        groups.heard(place, rows)
        groups.told(place, is_spoken=True)
        assert sum(map(len, groups._spoken)) < BLOCK
        assert not groups._open
