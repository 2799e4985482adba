"""From what stage 2 wrote for some clips to their transcripts: texts, word times, and whether the texts can be trusted.

clip + hypothesis -> text (the family's parse_answer) -> words and what the CTC head hears (words/aligner.py)
                  -> opinion (quality.py) -> Transcript, or a second try of a text that went round in circles
                                           and one more pass over speech that a text leaves out at its end
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .decoder.base import Hypothesis
from .families.base import Answer
from .quality import Opinion, judge, seconds_of_speech, with_ctc_text
from .transcript import Segment, Token, Transcript, TranscriptWarning
from .words.aligner import Alignment, TextAligner
from .words.confidence import WrittenTokens, text_confidence, token_pieces

if TYPE_CHECKING:
    from .clip import Clip
    from .transcriber import Transcriber

_NO_ALIGNMENT = Alignment(None)
_NO_OPINION = Opinion()


@dataclass(slots=True, eq=False)
class Written:
    """What stage 2 wrote for a clip, and what is made of it."""

    clip: "Clip"
    hypothesis: Hypothesis
    answer: Answer
    alignment: Alignment = _NO_ALIGNMENT
    opinion: Opinion = _NO_OPINION
    confidence: float | None = None
    tokens: tuple[Token, ...] | None = None

    @property
    def needs_second_try(self) -> bool:
        return self.opinion.is_loop and not self.clip.is_second_try

    @property
    def rest_start(self) -> float | None:
        """Where in the clip speech begins that the LLM has left out, s: it took its text for finished too early."""
        is_finished = self.clip.options.check and self.hypothesis.finish_reason == "stop"
        return self.alignment.rest_start if is_finished else None


def review(model: "Transcriber", finished: Sequence[tuple["Clip", Hypothesis]]) -> list[Written]:
    """Read, time and weigh some answers together."""
    answers = [Written(clip, hypothesis, answer_of(model, clip, hypothesis.token_ids)) for clip, hypothesis in finished]
    _align(model, answers)
    for each in answers:
        if each.clip.options.check:
            _judge(each)
        if not each.opinion.is_dropped:
            each.confidence = text_confidence(each.hypothesis, each.alignment.words)
        if each.clip.options.token_log_probs:
            each.tokens = _tokens(model, each.hypothesis)
    _fall_back(model, [each for each in answers if each.opinion.disagrees and not each.needs_second_try])
    return answers


def answer_of(model: "Transcriber", clip: "Clip", token_ids: Sequence[int]) -> Answer:
    """What a clip's answer says, whole or as far as it is written."""
    text = model.tokenizer.decode([*clip.answer_ids, *token_ids])
    return model.family.parse_answer(text, clip.request)


def transcript_of(written: Written, best_length_s: float) -> Transcript:
    """`best_length_s`: what the model hears well in one pass."""
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


def _tokens(model: "Transcriber", hypothesis: Hypothesis) -> tuple[Token, ...]:
    pairs = zip(hypothesis.token_ids, hypothesis.log_probs, strict=True)
    return tuple(Token(model.tokenizer.decode([token_id]), log_prob) for token_id, log_prob in pairs)


def _align(model: "Transcriber", answers: Sequence[Written]) -> None:
    """Find the word times of these texts, and what the CTC head hears, where they are asked for."""
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
            each.alignment = alignment
    if model.forced_aligner is not None:
        _align_with(model.forced_aligner, [each for each in answers if each.clip.options.timestamps])


def _written(model: "Transcriber", written: Written) -> WrittenTokens | None:
    """What the LLM's probabilities say of a text, unless other words are timed or the text is not the LLM's."""
    if model.forced_aligner is not None or written.opinion.disagrees:
        return None
    answer_ids, hypothesis = written.clip.answer_ids, written.hypothesis
    pieces = token_pieces(model.tokenizer, [*answer_ids, *hypothesis.token_ids])
    return WrittenTokens(pieces, [0.0] * len(answer_ids) + list(hypothesis.log_probs))  # those were given, not written


def _align_with(aligner: TextAligner, answers: Sequence[Written]) -> None:
    """Take the word times from this aligner."""
    kept = [(each, each.clip.waveform) for each in answers]
    found = [(each, waveform) for each, waveform in kept if waveform is not None]
    texts, languages = [each.answer.text for each, _ in found], [each.answer.language for each, _ in found]
    alignments = aligner.align_words([waveform for _, waveform in found], texts, languages)
    for (each, _), alignment in zip(found, alignments, strict=True):
        each.alignment = replace(each.alignment, words=alignment.words, reason=alignment.reason)


def _judge(written: Written) -> None:
    clip = written.clip
    written.opinion = judge(
        written.answer.text,
        written.alignment.heard,
        written.alignment.disagreement,
        written.hypothesis,
        lambda: clip.duration if clip.is_speech or clip.waveform is None else seconds_of_speech(clip.waveform),
    )
    if written.opinion.is_dropped:
        written.answer = replace(written.answer, text="")
        written.alignment = Alignment(())


def _fall_back(model: "Transcriber", answers: Sequence[Written]) -> None:
    """Put what the CTC head hears in the place of these texts, where that is asked for."""
    replaced = [each for each in answers if each.clip.options.fallback == "ctc" and each.alignment.heard]
    for each in replaced:
        each.opinion = with_ctc_text(each.opinion, each.answer.text)
        each.answer = replace(each.answer, text=" ".join((each.alignment.heard or "").split()))
    _align(model, replaced)
    for each in replaced:
        each.confidence = text_confidence(each.hypothesis, each.alignment.words)


def _warnings(written: Written, best_length_s: float) -> Iterator[TranscriptWarning]:
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
    yield from written.opinion.warnings
