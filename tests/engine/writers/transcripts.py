"""Random transcripts, as an engine could give them."""

from hypothesis import strategies as st

from twostage_asr.engine import Segment, Transcript, Word

WORDS = st.one_of(st.text("abcdefgé'", min_size=1, max_size=10), st.sampled_from("你好世界天地人"))
MARKS = st.sampled_from(["", "", "", ",", ".", "?", "，", "。", '"', "&", "<"])


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    """Segments in order, with word times or without; times in milliseconds."""
    clock, segments = 0, []
    for spoken in draw(st.lists(st.lists(st.tuples(WORDS, MARKS), min_size=1, max_size=12), max_size=4)):
        clock += draw(st.integers(0, 3000))
        start, words, text = clock, [], ""
        for word, mark in spoken:
            length = draw(st.integers(20, 900))
            words.append(Word(word, clock / 1000, (clock + length) / 1000, 0.5))
            clock += length + draw(st.sampled_from([0, 0, 100, 800]))
            text += word + mark + (" " if word.isascii() else "")
        timed = tuple(words) if draw(st.booleans()) else None
        segments.append(Segment(start / 1000, words[-1].end, text.strip(), timed, 0.5))
    duration = (clock + draw(st.sampled_from([0, 200]))) / 1000
    text = " ".join(segment.text for segment in segments)
    return Transcript(key="a clip", text=text, segments=tuple(segments), duration=duration)
