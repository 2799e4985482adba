"""SRT, WebVTT and ASS hold the cues: pysubs2, which knows nothing of ours, reads the same times and texts."""

import pysubs2
import pytest
from hypothesis import given

from tests.engine.writers.transcripts import transcripts
from twostage_asr.engine import Segment, Transcript
from twostage_asr.engine.writers import WRITERS, cues

STEP_MS = {"srt": 1, "vtt": 1, "ass": 10}  # of the format's clock


def unescaped(text: str) -> str:
    """What WebVTT escapes and pysubs2 leaves as it is."""
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def one_segment(text: str) -> Transcript:
    return Transcript(key="k", text=text, segments=(Segment(0.0, 1.0, text, None, None),))


@pytest.mark.parametrize("name", STEP_MS)
@given(transcript=transcripts())
def test_pysubs2_reads_the_cues(name: str, transcript: Transcript) -> None:
    read = pysubs2.SSAFile.from_string(WRITERS[name](transcript), format_=name)
    expected = cues(transcript)
    assert len(read) == len(expected)
    for event, cue in zip(read, expected, strict=True):
        assert (event.start, event.end) == pytest.approx(
            (1000 * cue.start, 1000 * cue.end), abs=STEP_MS[name] / 2 + 0.01
        )
        if "<" not in cue.text or name == "vtt":  # pysubs2 takes what follows for a tag
            shown = event.text.replace(r"\N", "\n")
            assert (unescaped(shown) if name == "vtt" else shown).split("\n") == cue.lines


def test_no_text_can_look_like_the_format_itself() -> None:
    arrow = one_segment("a --> b <i>c</i> & d")
    assert "a --&gt; b &lt;i&gt;c&lt;/i&gt; &amp; d" in WRITERS["vtt"](arrow)
    commands = WRITERS["ass"](one_segment(r"{\b1}bold{\b0} C:\Nothing"))
    assert pysubs2.SSAFile.from_string(commands)[0].plaintext == "｛\\\u2060b1｝bold｛\\\u2060b0｝ C:\\\u2060Nothing"


@pytest.mark.parametrize(
    ("seconds", "ass", "vtt"),
    [
        (59.996, "0:01:00.00", "00:00:59.996"),
        (3723.456, "1:02:03.46", "01:02:03.456"),
        (36_000, "10:00:00.00", "10:00:00.000"),
    ],
)
def test_times_pass_minutes_and_hours(seconds: float, ass: str, vtt: str) -> None:
    late = Transcript(key="k", segments=(Segment(seconds, seconds + 1, "a", None, None),))
    assert WRITERS["ass"](late).splitlines()[-1].startswith(f"Dialogue: 0,{ass},")
    assert f"\n{vtt} --> " in WRITERS["vtt"](late)
