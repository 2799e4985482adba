"""Clips and their hypotheses -> transcripts: parse each answer, find word times, check the text.

clip + hypothesis -> text (the family's parse_answer) -> words, and the CTC head's own text (words/aligner.py)
                  -> verdict (quality.py)             -> Transcript

pipeline.py decodes a clip once more if DecodedClip.needs_second_try, and the end of a clip if it has a rest_start.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .clip import Clip
from .decoder.base import Hypothesis
from .families.base import Answer
from .model import LoadedModel
from .quality import Verdict, check_text, seconds_of_speech, with_ctc_text
from .transcript import Segment, Token, Transcript, TranscriptWarning
from .words.aligner import Alignment, TextAligner
from .words.confidence import WrittenTokens, text_confidence, token_pieces
from .words.pauses import edges_at_sound

_NO_ALIGNMENT = Alignment(None)
_NO_VERDICT = Verdict()


@dataclass(slots=True, eq=False)
class DecodedClip:
    """A clip, its hypothesis, and what is derived from it step by step."""

    clip: Clip
    hypothesis: Hypothesis
    answer: Answer
    alignment: Alignment = _NO_ALIGNMENT
    verdict: Verdict = _NO_VERDICT
    confidence: float | None = None
    tokens: tuple[Token, ...] | None = None

    @property
    def needs_second_try(self) -> bool:
        return self.verdict.is_loop and not self.clip.is_second_try

    @property
    def rest_start(self) -> float | None:
        """Start (s) of speech that follows a premature end of text; None if there is none."""
        is_finished = self.clip.options.check and self.hypothesis.finish_reason == "stop"
        return self.alignment.rest_start if is_finished else None


def finalize(model: LoadedModel, finished: Sequence[tuple[Clip, Hypothesis]]) -> list[DecodedClip]:
    """Parse, align and check a batch of answers."""
    answers = [
        DecodedClip(clip, hypothesis, answer_of(model, clip, hypothesis.token_ids)) for clip, hypothesis in finished
    ]
    _align(model, answers)
    for each in answers:
        if each.clip.options.check:
            _judge(each)
        if not each.verdict.is_dropped:
            each.confidence = text_confidence(each.hypothesis, each.alignment.words)
        if each.clip.options.token_log_probs:
            each.tokens = _tokens(model, each.hypothesis)
    _fall_back(model, [each for each in answers if each.verdict.disagrees and not each.needs_second_try])
    return answers


def answer_of(model: LoadedModel, clip: Clip, token_ids: Sequence[int]) -> Answer:
    """Parse a clip's answer, which may still be growing."""
    text = model.tokenizer.decode([*clip.answer_ids, *token_ids])
    return model.family.parse_answer(text, clip.request)


def transcript_of(written: DecodedClip, best_length_s: float) -> Transcript:
    """The transcript of one clip. A clip longer than `best_length_s` (s) gets the warning "long_audio"."""
    clip, text = written.clip, written.answer.text
    words = written.alignment.words if clip.options.timestamps else None
    warnings = tuple(_warnings(written, best_length_s))
    segments: tuple[Segment, ...] = ()
    if text:
        start, end = (words[0].start, words[-1].end) if words else (0.0, clip.duration)
        segments = (Segment(start, end, text, words, written.confidence, warnings),)
    return Transcript(
        key=clip.item.key,
        text=text,
        language=written.answer.language,
        words=words,
        segments=segments,
        duration=clip.duration,
        confidence=written.confidence,
        finish_reason=written.hypothesis.finish_reason,
        warnings=warnings,
        tokens=written.tokens,
    )


def _tokens(model: LoadedModel, hypothesis: Hypothesis) -> tuple[Token, ...]:
    pairs = zip(hypothesis.token_ids, hypothesis.log_probs, strict=True)
    return tuple(Token(model.tokenizer.decode([token_id]), log_prob) for token_id, log_prob in pairs)


def _align(model: LoadedModel, answers: Sequence[DecodedClip]) -> None:
    """Find word times and the CTC head's own text, for the clips that ask for them."""
    if model.aligner is None:
        for each in answers:
            each.alignment = Alignment(None, model.no_times_reason)
    else:
        asked = [(each, each.clip.ctc_hidden) for each in answers if each.clip.options.needs_ctc]
        heard = [(each, hidden) for each, hidden in asked if hidden is not None]
        alignments = model.aligner.align(
            [hidden for _, hidden in heard],
            [each.answer.text for each, _ in heard],
            [each.clip.duration for each, _ in heard],
            written=[_written(model, each) for each, _ in heard],
            compare=any(each.clip.options.check for each, _ in heard),
        )
        for (each, _), alignment in zip(heard, alignments, strict=True):
            each.alignment = _at_sound(each.clip, alignment)
    if model.forced_aligner is not None:
        _align_with(model.forced_aligner, [each for each in answers if each.clip.options.timestamps])


def _at_sound(clip: Clip, alignment: Alignment) -> Alignment:
    """The alignment with word edges where the clip's sound has them, if somebody asks for word times."""
    if not (clip.options.timestamps and alignment.words) or clip.waveform is None:
        return alignment
    return replace(alignment, words=edges_at_sound(alignment.words, clip.waveform))


def _written(model: LoadedModel, written: DecodedClip) -> WrittenTokens | None:
    """The LLM's tokens with their log probabilities; None if these do not rate the words that are timed.

    That is so if a forced aligner times the words, or the text was replaced by the CTC head's.
    """
    if model.forced_aligner is not None or written.verdict.disagrees:
        return None
    answer_ids, hypothesis = written.clip.answer_ids, written.hypothesis
    pieces = token_pieces(model.tokenizer, [*answer_ids, *hypothesis.token_ids])
    # The answer prefix was given, not decoded: its tokens have probability 1.
    return WrittenTokens(pieces, [0.0] * len(answer_ids) + list(hypothesis.log_probs))


def _align_with(aligner: TextAligner, answers: Sequence[DecodedClip]) -> None:
    """Replace word times by those of a forced aligner."""
    kept = [(each, each.clip.waveform) for each in answers]
    found = [(each, waveform) for each, waveform in kept if waveform is not None]
    texts, languages = [each.answer.text for each, _ in found], [each.answer.language for each, _ in found]
    alignments = aligner.align_words([waveform for _, waveform in found], texts, languages)
    for (each, _), alignment in zip(found, alignments, strict=True):
        each.alignment = replace(each.alignment, words=alignment.words, reason=alignment.reason)


def _judge(written: DecodedClip) -> None:
    clip = written.clip
    written.verdict = check_text(
        written.answer.text,
        written.alignment.ctc_text,
        written.alignment.disagreement,
        written.hypothesis,
        lambda: clip.duration if clip.is_speech or clip.waveform is None else seconds_of_speech(clip.waveform),
    )
    if written.verdict.is_dropped:
        written.answer = replace(written.answer, text="")
        written.alignment = Alignment(())


def _fall_back(model: LoadedModel, answers: Sequence[DecodedClip]) -> None:
    """Replace these texts by the CTC head's own, for the clips with `fallback="ctc"`."""
    replaced = [each for each in answers if each.clip.options.fallback == "ctc" and each.alignment.ctc_text]
    for each in replaced:
        each.verdict = with_ctc_text(each.verdict, each.answer.text)
        each.answer = replace(each.answer, text=" ".join((each.alignment.ctc_text or "").split()))
    _align(model, replaced)
    for each in replaced:
        each.confidence = text_confidence(each.hypothesis, each.alignment.words)


def _warnings(written: DecodedClip, best_length_s: float) -> Iterator[TranscriptWarning]:
    clip, hypothesis = written.clip, written.hypothesis
    if clip.duration > best_length_s:
        best = f"the model hears up to {best_length_s:g} s well in one pass"
        yield TranscriptWarning("long_audio", f"{clip.duration:.1f} s of audio; {best}")
    if hypothesis.finish_reason == "length":
        yield TranscriptWarning(
            "unfinished", f"the text stops after {len(hypothesis.token_ids)} tokens (max_new_tokens), not at its end"
        )
    if clip.options.timestamps and written.alignment.reason is not None:
        yield TranscriptWarning("no_word_times", written.alignment.reason)
    yield from written.verdict.warnings
