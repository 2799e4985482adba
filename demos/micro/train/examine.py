"""Held-out error rates of the model in training: greedy decoding on the training device, and CTC's best path."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from evaluate import edit_distance, is_written
from heldout import HeldOutClip
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from twostage_asr.engine.families.base import Request
from twostage_asr.engine.text import clean_text
from twostage_asr.engine.words.timer import collapse

from .batches import BatchLimits, Collator
from .compose import to_device
from .lessons import Lesson, Question
from .model import MicroModel
from .vocabulary import Vocabulary

_LIMITS = BatchLimits(audio_s=1600.0, clips=320)
MAX_NEW_TOKENS = 256
FULL_RATE = ("en_clean", "zh_clean")  # examined so too


@dataclass(slots=True)
class Tally:
    """Counts over the clips of a condition."""

    clips: int = 0
    exact: int = 0
    errors: int = 0
    characters: int = 0
    ctc_errors: int = 0
    ctc_tokens: int = 0
    names: int = 0  # that hotwords were about
    names_right: int = 0

    def __str__(self) -> str:
        return (
            f"{self.clips:4d} clips  CER {100 * self.errors / max(self.characters, 1):6.2f}"
            f"  exact {100 * self.exact / self.clips:6.2f}  CTC {100 * self.ctc_errors / max(self.ctc_tokens, 1):6.2f}"
            + (f"  names right {100 * self.names_right / self.names:6.2f}" if self.names else "")
        )


class Examiner:
    """Keeps held-out clips by length and scores a model on them."""

    def __init__(
        self,
        clips: Sequence[HeldOutClip],
        vocabulary: Vocabulary,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        counts: dict[str, int] = defaultdict(int)
        self._clips: list[tuple[int, HeldOutClip]] = []  # with its number within its condition
        for clip in clips:
            self._clips.append((counts[clip.condition], clip))
            counts[clip.condition] += 1
        self._clips.sort(key=lambda numbered: -len(numbered[1].waveform))
        self._vocabulary = vocabulary
        self._max_new_tokens = max_new_tokens
        self._collator = Collator(vocabulary)

    @torch.no_grad()
    def examine(
        self, model: MicroModel, *, names: Sequence[str] = (), most: int | None = None, low_frame_rate: bool = True
    ) -> dict[str, Tally]:
        """Scores by condition: of those named, or all, and of the first `most` clips of each."""
        model.eval()
        tallies: dict[str, Tally] = defaultdict(Tally)
        for clips in self._batches(names, most):
            texts, ctc_errors = self._transcribe(model, clips, low_frame_rate)
            for clip, text, (errors, tokens) in zip(clips, texts, ctc_errors, strict=True):
                tally, wanted = tallies[clip.condition], clip.recipe.text
                tally.clips += 1
                tally.exact += text == wanted
                tally.errors += 0 if text == wanted else edit_distance(wanted, text)
                tally.characters += len(wanted)
                tally.ctc_errors += errors
                tally.ctc_tokens += tokens
                tally.names += clip.name is not None
                tally.names_right += clip.name is not None and is_written(clip.name, text)
        model.train()
        return {name: tallies[name] for name in sorted(tallies)}

    def _batches(self, names: Sequence[str], most: int | None) -> Iterator[list[HeldOutClip]]:
        batch: list[HeldOutClip] = []
        for number, clip in self._clips:
            if (most is not None and number >= most) or (names and clip.condition not in names):
                continue
            if batch and not _LIMITS.fits(len(batch) + 1, len(batch[0].waveform)):
                yield batch
                batch = []
            batch.append(clip)
        if batch:
            yield batch

    def _transcribe(
        self, model: MicroModel, clips: Sequence[HeldOutClip], low_frame_rate: bool
    ) -> tuple[list[str], list[tuple[int, int]]]:
        device = model.chunk_head.weight.device
        lessons = [_as_lesson(clip) for clip in clips]
        batch = to_device(self._collator.collate(lessons, low_frame_rate=low_frame_rate), device)
        waveforms = [torch.from_numpy(clip.waveform) for clip in clips]
        sample_lens = torch.tensor([len(waveform) for waveform in waveforms])
        features, lens = model.acoustic.features(pad_sequence(waveforms, batch_first=True).to(device), sample_lens)
        encoder_out = model.acoustic.audio_encoder(features, lens)
        head = model.ctc_head
        best = head.log_probs(head.hidden(encoder_out, lens)).argmax(-1).cpu().numpy()
        found = [token_ids for token_ids, _ in collapse(best, lens.tolist(), head.config.blank_id)]
        wanted = [self._vocabulary.ctc.encode(lesson.ctc_text) for lesson in lessons]
        ctc_errors = [(_distance(right, ids), len(right)) for right, ids in zip(wanted, found, strict=True)]
        adapted, _ = model.acoustic.audio_adaptor(encoder_out, lens)
        ids = greedy(model, adapted, batch, end_id=self._vocabulary.end_id, max_new_tokens=self._max_new_tokens)
        return [clean_text(self._vocabulary.tokenizer.decode(row, skip_special_tokens=True)) for row in ids], ctc_errors


def greedy(
    model: MicroModel, adapted: Tensor, batch: Mapping[str, Tensor], *, end_id: int, max_new_tokens: int
) -> list[list[int]]:
    """Answers to the batch's prompts. Runs the whole sequence at every step: simple, and fast for a tiny LLM."""
    num_clips, width = batch["token_ids"].shape
    rows = torch.arange(num_clips, device=adapted.device)
    ends = torch.full((num_clips,), -1, device=adapted.device)  # the position that predicts the next token
    ends.scatter_reduce_(0, batch["answer_rows"], batch["answer_places"] % width, "amin", include_self=False)
    wide = width + max_new_tokens
    ids = torch.zeros(num_clips, wide, dtype=torch.long, device=adapted.device)
    ids[:, :width] = batch["token_ids"]
    places = batch["audio_places"] // width * wide + batch["audio_places"] % width
    answers = torch.full((num_clips, max_new_tokens), end_id, device=adapted.device)
    is_done = torch.zeros(num_clips, dtype=torch.bool, device=adapted.device)
    for step in range(max_new_tokens):
        used = int(ends.max()) + 1
        kept = ids[:, :used].contiguous()
        moved = {**batch, "audio_places": places // wide * used + places % wide}
        hidden, _ = model.read(model.embed(kept, adapted, moved))
        token = model.llm.lm_head(hidden[rows, ends]).argmax(-1)
        token = torch.where(is_done, end_id, token)
        answers[:, step] = token
        is_done |= token == end_id
        if bool(is_done.all()):
            break
        ends += 1
        ids[rows, ends] = token
    return [row[: row.index(end_id)] if end_id in row else row for row in answers.tolist()]


def _as_lesson(clip: HeldOutClip) -> Lesson:
    recipe = clip.recipe
    request = Request(language=recipe.hint, hotwords=recipe.hotwords, itn=recipe.itn)
    return Lesson((), len(clip.waveform), (Question(request, recipe.text),), recipe.spoken, ())


def _distance(right: Sequence[int], found: Sequence[int]) -> int:
    """edit_distance of token ids."""
    return 0 if list(right) == list(found) else edit_distance(right, found)
