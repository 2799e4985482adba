"""Train the adaptor and the LLM's updates: python demos/llm_asr/learn.py --whisper DIR --llm DIR --out DIR
        --kokoro SHARDS --plan PLAN.jsonl --human DIR [--kokoro-held-out SHARDS] [--start trained.safetensors]
        [--minutes 8]

SHARDS is what demos/micro/speak.py speaks of PLAN; what it adds during the training is learned from too. DIR of --human
is what label.py wrote. OUT/trained.safetensors is the best model so far: that with the fewest wrong words in held-out
voices and in the recordings that label.py kept back. The minutes count from the start of the process; SIGTERM ends the
training early, after a last examination.
"""

import argparse
import json
import math
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from kaldialign import edit_distance
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "micro"))
from recognizer import Mask, Recognizer
from speech import RATE, Batch, Batches, Corpus, Shards, Utterance, encoded, in_order, read_corpus
from train.compose import NO_AUGMENTATION, Augmentation, Composer

from twostage_asr.encoders.upload import to_device
from twostage_asr.engine.text import LLMTokenizer

MOST_TOKENS = 100  # of an answer that is examined: a model that has learned little writes without end
_RATES = {"encoder": 2e-4, "adaptor": 5e-4, "llm": 5e-4, "letters": 1e-3, "rest": 5e-3}  # learning rates
_WEIGHT_DECAY = 0.01
_WARM_UP = 0.08  # of the training
_CTC_ALONE = 0.33  # of the training, at its beginning: while Kokoro speaks, steps of the LLM take twice as long
_GOING_ON = 0.5  # of the rates, if weights are given to start from
_LEAST_RATE = 0.02  # of the peak, at the end
_CTC_WEIGHTS = (1.0, 0.15)  # at the beginning and from the middle on
_LETTER_SHARE = 0.5  # of these weights
_CLIP_NORM = 1.0
_REPORT_S = 10.0
_GROWTH_S = 20.0  # between looks for new shards
_MEMORY_SHARE = 0.55  # of a GPU at most: those who speak need some too
_ON_CPU = ("sample_lens", "num_segment_samples")
_AUGMENTATION = replace(Augmentation(), noise=0.5, equaliser=0.3, rooms=0.3, telephone=0.15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long to train, and how often to look."""

    seconds: float
    steps: int
    size: int  # clips of a batch
    examinations: int
    held_out: int  # clips of each kind that are examined


class Trainer:
    """One run."""

    def __init__(
        self, model: Recognizer, corpus: Corpus, kept: Corpus, shards: Shards, options: Options, *, goes_on: bool
    ) -> None:
        """`shards`: those of which `corpus` was read."""
        self._model, self._corpus, self._kept, self._shards, self._options = model, corpus, kept, shards, options
        self._device = next(model.parameters()).device
        self._scale = _GOING_ON if goes_on else 1.0
        self._batches = Batches(corpus, model.end_id, options.size, seed=2 if goes_on else 1)
        self._audio, self._filled = torch.from_numpy(corpus.samples).to(self._device), len(corpus.samples)
        self._composer = Composer(self._audio, seed=1)
        self._kept_composer = Composer(torch.from_numpy(kept.samples).to(self._device), seed=1)
        self._mask = Mask(1, self._device)
        parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
        groups = [
            {"params": [each for name, each in parameters.items() if _kind(name) == kind], "rate": rate, "kind": kind}
            for kind, rate in _RATES.items()
        ]
        self._adam = torch.optim.AdamW(
            groups, betas=(0.9, 0.98), weight_decay=_WEIGHT_DECAY, fused=self._device.type == "cuda"
        )
        self._alone = 0.0 if goes_on else _CTC_ALONE
        self._started = time.monotonic()
        self._is_stopped = False
        self._step = 0
        self._best = math.inf

    @property
    def progress(self) -> float:
        elapsed = time.monotonic() - self._started
        return min(max(elapsed / self._options.seconds, self._step / self._options.steps), 1.0)

    def stop(self) -> None:
        """Let `run` end after the step that it is at, with an examination."""
        self._is_stopped = True

    def run(self, out: Path) -> None:
        """Train, and write the model whenever it is the best so far."""
        examined, reported, grown, losses = 0, time.monotonic(), time.monotonic(), []
        while (progress := self.progress) < 1.0 and not self._is_stopped:
            if time.monotonic() - grown > _GROWTH_S:
                self.grow()
                grown = time.monotonic()
            losses.append(self._train_step(self._batches.draw(), progress))
            self._step += 1
            if time.monotonic() - reported > _REPORT_S or self._step <= 3:
                means = torch.stack(losses).mean(0).tolist()  # waits for the device
                shown = "  ".join(f"{name} {value:.3f}" for name, value in zip(_SHOWN, means, strict=True))
                took = (time.monotonic() - reported) / len(losses)
                print(f"{100 * progress:5.1f} %  step {self._step}  {took:.2f} s a step  {shown}", flush=True)
                reported, losses = time.monotonic(), []
            share = (progress - self._alone) / (1 - self._alone)  # of the time in which the LLM learns
            if share > (examined + 1) / (self._options.examinations + 1):
                examined += 1
                self.examine(out)
        self.examine(out)

    def grow(self) -> None:
        """Take in what was spoken meanwhile. The memory for it doubles when it is full, so that little is left over."""
        spoken, pieces = self._shards.new(self._filled)
        if not spoken:
            return
        added = torch.from_numpy(np.concatenate(pieces))
        first, self._filled = self._filled, self._filled + len(added)
        while self._filled > len(self._audio):
            self._audio = torch.cat([self._audio, torch.zeros_like(self._audio)])
        self._audio[first : self._filled] = added.to(self._device)
        self._composer = Composer(self._audio, seed=self._step)
        self._corpus.spoken.extend(spoken)
        print(f"-- {len(self._corpus.spoken)} spoken ({self._filled / RATE / 3600:.2f} h in all)", flush=True)

    def _train_step(self, batch: Batch, progress: float) -> torch.Tensor:
        with_llm = progress >= self._alone
        for group in self._adam.param_groups:
            begun = progress - self._alone if group["kind"] == "llm" else progress
            group["lr"] = self._scale * _schedule(progress, begun) * group["rate"]
        waveforms = self._composer.waveforms(_uploaded(batch, self._device), _AUGMENTATION)
        with _autocast(self._device):
            audio = self._model.hear(waveforms, self._mask)
            found = self._model.losses(audio, batch, with_llm=with_llm)
        answer_weight = min(max((progress - self._alone) / _WARM_UP, 0.02), 1.0)
        first, last = _CTC_WEIGHTS
        ctc_weight = first + (last - first) * min(2 * progress, 1.0)
        self._adam.zero_grad(set_to_none=True)
        (answer_weight * found.answer + ctc_weight * (found.ctc + _LETTER_SHARE * found.letters)).backward()
        trained = [each for each in self._model.parameters() if each.requires_grad]
        nn.utils.clip_grad_norm_(trained, _CLIP_NORM)
        self._adam.step()
        return torch.stack([each.detach() for each in (found.answer, found.ctc, found.letters, found.right)])

    def examine(self, out: Path) -> None:
        """Word error rates of what is kept back; the model is written if none was better."""
        rates = []
        for name, group in (("held-out voices", self._kept.spoken), ("people", self._kept.human)):
            if group:
                pairs = self.transcribe(group[: self._options.held_out])
                rates.append(word_error_rate(pairs))
                print(f"-- {name}: {len(pairs)} clips, WER {100 * rates[-1]:.1f} %; {pairs[0]}", flush=True)
        score = sum(rates) / max(len(rates), 1)
        if score <= self._best:
            self._best = score
            self._model.save(out / "trained.safetensors")
            print(f"-- the best so far: {100 * score:.1f} % after {time.monotonic() - self._started:.0f} s", flush=True)

    def transcribe(self, group: Sequence[Utterance]) -> list[tuple[str, str]]:
        """What was said and what is written."""
        pairs = []
        for batch in in_order(group, _EXAMINED, self._model.end_id):
            waveforms = self._kept_composer.waveforms(_uploaded(batch, self._device), NO_AUGMENTATION)
            with _autocast(self._device):  # with gradients, so that the adaptor runs as in training
                answers = self._model.decode(self._model.hear(waveforms).detach(), MOST_TOKENS)
            pairs += zip(batch.texts, map(self._model.tokenizer.decode, answers), strict=True)
        return pairs


_SHOWN = ("answer", "ctc", "letters", "tokens right")
_EXAMINED = 128  # clips at once: the time of a step hardly depends on their number


def word_error_rate(pairs: Sequence[tuple[str, str]]) -> float:
    """Edits over the words of the references; case and marks do not count. What is written for nothing said does."""
    texts = [[re.findall(r"[a-z']+", text.lower()) for text in pair] for pair in pairs]
    errors = sum(int(edit_distance(right, written)["total"]) for right, written in texts)
    return errors / max(sum(len(right) for right, _ in texts), 1)


def _kind(name: str) -> str:
    name = name.removeprefix("tower.audio_")
    return next((kind for kind in _RATES if name.startswith(f"{kind}.")), "rest")


def _schedule(progress: float, begun: float) -> float:
    """Linear warm-up of what began to learn `begun` ago, and half a cosine."""
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return min(max(0.02 + begun / _WARM_UP, 0.0), 1.0) * (_LEAST_RATE + (1 - _LEAST_RATE) * cosine)


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _uploaded(batch: Batch, device: torch.device) -> dict[str, torch.Tensor]:
    return {name: each if name in _ON_CPU else to_device(each, device) for name, each in batch.cut.items()}


def tokens_of(corpora: Sequence[Corpus], texts: Sequence[str], tokenizer: LLMTokenizer) -> torch.Tensor:
    """The tokens of all texts, spoken or still to be spoken, in order."""
    spoken = (each for corpus in corpora for each in (*corpus.spoken, *corpus.human))
    found = {token for each in spoken for token in (*each.first_ids, *each.next_ids)}
    found.update(token for text in texts for ids in encoded(text, tokenizer) for token in ids)
    return torch.tensor(sorted(found))


def texts_of(plan: Path) -> list[str]:
    """What plan.py wrote is to be spoken."""
    rows = map(json.loads, plan.read_text("utf-8").splitlines())
    return [written for row in rows for _, written, *_ in row["units"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whisper", type=Path, required=True)
    parser.add_argument("--llm", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kokoro", type=Path, nargs="*", default=[], help="spoken for the training")
    parser.add_argument("--plan", type=Path, help="what is being spoken")
    parser.add_argument("--kokoro-held-out", type=Path, nargs="*", default=[], help="spoken by other voices")
    parser.add_argument("--human", type=Path, help="with train/ and kept/")
    parser.add_argument("--start", type=Path, help="trained.safetensors to go on from")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=64, help="clips of a batch")
    parser.add_argument("--examinations", type=int, default=6, help="while training")
    parser.add_argument("--held-out", type=int, default=96, help="clips of each kind that are examined")
    arguments = parser.parse_args()
    started = time.monotonic()
    torch.manual_seed(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    tokenizer = LLMTokenizer(arguments.llm)
    people, people_kept = (
        Shards([arguments.human / half] if arguments.human else [], tokenizer) for half in ("train", "kept")
    )
    shards = Shards(arguments.kokoro, tokenizer)
    corpus = read_corpus(shards, people)
    kept = read_corpus(Shards(arguments.kokoro_held_out, tokenizer), people_kept, most=arguments.held_out)
    hours = [sum(each.length for each in group) / RATE / 3600 for group in (corpus.spoken, corpus.human)]
    print(
        f"{len(corpus.spoken)} spoken ({hours[0]:.2f} h), {len(corpus.human)} of people ({hours[1]:.2f} h)", flush=True
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(_MEMORY_SHARE)
    texts = texts_of(arguments.plan) if arguments.plan else []
    model = Recognizer(arguments.whisper, arguments.llm, tokens_of([corpus, kept], texts, tokenizer), dtype)
    if arguments.start:
        model.load(arguments.start)
    model.to(device)
    options = Options(
        seconds=max(60 * arguments.minutes - (time.monotonic() - started), 1.0),
        steps=arguments.steps,
        size=arguments.size,
        examinations=arguments.examinations,
        held_out=arguments.held_out,
    )
    trainer = Trainer(model, corpus, kept, shards, options, goes_on=arguments.start is not None)
    signal.signal(signal.SIGTERM, lambda *_: trainer.stop())
    if arguments.start:
        trainer.examine(arguments.out)
    trainer.run(arguments.out)


if __name__ == "__main__":
    main()
