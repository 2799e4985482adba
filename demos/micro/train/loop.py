"""The training: schedules, steps, progress lines."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from statistics import mean

import torch
from torch import Tensor, nn

from .batches import Batch, Planners
from .codes import route_adaptor
from .compose import NO_AUGMENTATION, Augmentation, Composer, to_device
from .examine import Examiner, Tally
from .model import LossWeights, MicroModel, losses
from .muon import Muon

_LR, _MUON_LR = 2.5e-3, 4e-3
_RATE_GOING_ON = 0.6  # of the learning rates
_WEIGHT_DECAY = 0.02
_WARM_UP = 0.03  # of the training
_CLIP_NORM = 1.0
_CALM = 0.88  # progress from which clips are no longer masked
_WARM_UP_STEPS = 3  # before the clock starts
_REPORT_STEPS = 100
_REPORT_S = 8.0  # at most between progress lines
_EXAMINED_CLIPS = 96  # of each condition, while training
_KNOWN = 0.6  # progress at which one that goes on begins: every kind of clip, and losses as late in a training
_LEEWAY = 0.3  # percent of CER by which a condition may exceed its bar
_STRICTNESS = 10.0  # of the score, per percent beyond that
# While training; all conditions follow at the end.
NATURAL = ("en_kokoro", "zh_kokoro", "en_people")
_EXAMINED = (
    "en_clean", "zh_clean", "en_snr10", "en_long", "zh_long", "en_hotword", "zh_hotword", "zh_distractors", "mixed",
    "music", *NATURAL,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How to train, and when to stop: at the first of two limits."""

    until: float  # of time.perf_counter()
    steps: int
    examinations: int = 6
    goes_on: bool = False  # from trained weights: a lower rate, and every kind of clip from the start
    report_steps: int = _REPORT_STEPS


def error_rates(tallies: Mapping[str, Tally]) -> dict[str, float]:
    """CER in percent by condition, where there is text."""
    return {name: 100 * tally.errors / tally.characters for name, tally in tallies.items() if tally.characters}


def score(tallies: Mapping[str, Tally], bars: Mapping[str, float]) -> float:
    """Mean CER in percent; natural voices, where they are examined, count as much as everything else together.

    What exceeds its bar by more than the leeway counts many times: nothing is learned at the cost of the rest.
    """
    rates = error_rates(tallies)
    natural = [rate for name, rate in rates.items() if name in NATURAL]
    others = [rate for name, rate in rates.items() if name not in NATURAL]
    excess = sum(max(rates[name] - bar - _LEEWAY, 0.0) for name, bar in bars.items() if name in rates)
    return mean(mean(group) for group in (natural, others) if group) + _STRICTNESS * excess if rates else 0.0


class Trainer:
    """One run, which ends with the best of the models examined."""

    def __init__(
        self,
        model: MicroModel,
        composer: Composer,
        planners: Planners,
        examiner: Examiner,
        options: TrainingOptions,
        keep: Callable[[], None],
    ) -> None:
        """`keep` writes the model as it is, whenever an examination finds it better than before."""
        self._model, self._composer, self._planners = model, composer, planners
        self._examiner, self._options, self._keep = examiner, options, keep
        self._bars: Mapping[str, float] = {}
        self._device = model.chunk_head.weight.device
        self._adamw, self._muon = _optimizers(model)
        self._started = time.perf_counter()
        self._step = 0
        self._best_score = math.inf
        self._best: dict[str, Tensor] = {}

    @property
    def progress(self) -> float:
        """0..1, the larger share of the limits."""
        now, until = time.perf_counter(), self._options.until
        elapsed = (now - self._started) / (until - self._started) if now < until else 1.0
        return min(max(elapsed, self._step / self._options.steps), 1.0)

    def set_bars(self) -> None:
        """Make the error rates of the model as it is those that the trained one should not exceed."""
        tallies = self._examiner.examine(self._model, names=_EXAMINED, most=_EXAMINED_CLIPS)
        self.show(tallies)
        self._bars = {name: rate for name, rate in error_rates(tallies).items() if name not in NATURAL}

    def run(self) -> bool:
        """Train to the end, or until interrupted: whether it came to its end. The model is then the best one examined.

        Weights that training goes on from are the first to be examined.
        """
        is_whole = False
        batches = iter(self._planners)
        try:
            if self._options.goes_on:
                self._examine()
            self._warm_up(batches)
            self._started = time.perf_counter()
            self._train(batches)
            self._examine()
            if self._step < self._options.steps:
                print(f"out of time after {self._step} of {self._options.steps} steps", flush=True)
            is_whole = True
        except KeyboardInterrupt:
            found = "best model examined" if self._best else "model as it is"
            print(f"interrupted at step {self._step}; what is written is the {found}", flush=True)
        if self._best:
            self._model.load_state_dict(self._best)
        return is_whole

    def _train(self, batches: Iterator[Batch]) -> None:
        examined = 0
        window = _Window()
        while (progress := self.progress) < 1.0:
            asked = time.perf_counter()
            batch = next(batches)
            window.waited += time.perf_counter() - asked
            window.add(self._train_step(batch, progress), batch.audio_s)
            self._step += 1
            if window.steps >= self._options.report_steps or window.seconds > _REPORT_S:
                print(f"{self._place} {window}", flush=True)
                window = _Window()
            if progress > (examined + 1) / (self._options.examinations + 1):
                examined += 1
                paused = time.perf_counter()
                self._examine()
                window.since += time.perf_counter() - paused

    def _examine(self) -> None:
        """Score the model, and keep it if none was better."""
        tallies = self._examiner.examine(self._model, names=_EXAMINED, most=_EXAMINED_CLIPS)
        self.show(tallies)
        if (found := score(tallies, self._bars)) <= self._best_score:
            print(f"   the best so far: {found:.2f} after {self._best_score:.2f}", flush=True)
            self._best_score = found
            self._best = {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()}
            self._keep()

    def _warm_up(self, batches: Iterator[Batch]) -> None:
        """Routing of a new adaptor, then a few slow steps: each with its times, so that a slow part shows."""
        if not self._options.goes_on:
            self._prepare(next(batches))
        for number in range(_WARM_UP_STEPS):
            asked = time.perf_counter()
            batch = next(batches)
            began = time.perf_counter()
            found = self._train_step(batch, 0.0)
            launched = time.perf_counter()
            answer = float(found["answer"])  # waits for the device
            done = time.perf_counter()
            print(
                f"step {number} before the clock: waited {began - asked:.2f} s for a batch, launched in "
                f"{launched - began:.2f} s, done in {done - began:.2f} s; {len(batch.sample_lens)} clips, "
                f"{batch.audio_s:.0f} s of audio, answer {answer:.3f}",
                flush=True,
            )

    @property
    def _place(self) -> str:
        wall = time.perf_counter() - self._started
        return f"{wall:6.0f} s  {100 * self.progress:5.1f} %  step {self._step:6d}"

    def show(self, tallies: dict[str, Tally]) -> None:
        """Print held-out scores."""
        wall = time.perf_counter() - self._started
        print(f"-- held out, {wall:.0f} s, step {self._step}", flush=True)
        for name, tally in tallies.items():
            print(f"   {name:15} {tally}", flush=True)

    def _prepare(self, batch: Batch) -> None:
        """Routing of the adaptor, which needs to see some clips."""
        with torch.no_grad():
            features, lens = self._composer.features(to_device(batch, self._device), NO_AUGMENTATION)
            encoder_out = self._model.acoustic.audio_encoder(features, lens)
            route_adaptor(self._model.acoustic.audio_adaptor, encoder_out, lens)

    def _train_step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        stage = max(progress, _KNOWN) if self._options.goes_on else progress  # of what is taught, not of the rates
        self._planners.set_progress(stage)
        scale = _schedule(progress) * (_RATE_GOING_ON if self._options.goes_on else 1.0)
        for group in self._adamw.param_groups:
            group["lr"] = _LR * scale
        tensors = to_device(batch, self._device)
        augmentation = Augmentation() if progress < _CALM else replace(Augmentation(), masks=0.0)
        features, lens = self._composer.features(tensors, augmentation)
        outputs = self._model(features, lens, tensors)
        found = losses(outputs, lens, tensors)
        weights = _loss_weights(stage)
        total = weights.answer * found["answer"] + weights.ctc * found["ctc"]
        total = total + weights.chunk * found["chunk"] + weights.look_up * found["look-up"]
        self._model.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), _CLIP_NORM)
        self._adamw.step()
        self._muon.lr = _MUON_LR * scale
        self._muon.step()
        with torch.no_grad():
            right = (outputs.answer_logits.argmax(-1) == tensors["answer_ids"]).float().mean()
        return {name: value.detach() for name, value in found.items()} | {"tokens right": right}


@dataclass(slots=True)
class _Window:
    """What happened since the last progress line."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    audio_s: float = 0.0
    waited: float = 0.0  # for batches
    since: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.since

    def add(self, found: dict[str, Tensor], audio_s: float) -> None:
        """Count one step."""
        self.sums = {name: value + self.sums.get(name, 0.0) for name, value in found.items()}
        self.steps += 1
        self.audio_s += audio_s

    def __str__(self) -> str:
        shown = "  ".join(f"{name} {float(value) / self.steps:.4f}" for name, value in self.sums.items())
        seconds = self.seconds  # after the line above, which waits for the device
        return (
            f" {self.steps / seconds:5.1f} step/s  {self.audio_s / seconds:7.0f} s/s  "
            f"waited {100 * self.waited / seconds:2.0f} %  {shown}"
        )


def _schedule(progress: float) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    if progress < _WARM_UP:
        return max(progress / _WARM_UP, 0.01)
    return 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))


def _loss_weights(progress: float) -> LossWeights:
    """CTC and the words of each slot first; the answers count fully from the start."""
    return LossWeights(ctc=1.0 if progress < 0.1 else 0.4, chunk=1.0 + (0.15 - 1.0) * min(progress / 0.6, 1.0))


def _optimizers(model: MicroModel) -> tuple[torch.optim.AdamW, Muon]:
    """Muon for the matrices of hidden layers, AdamW for the rest."""
    hidden = dict(_hidden_matrices(model))
    rest = [parameter for name, parameter in model.named_parameters() if name not in hidden]
    fused = model.chunk_head.weight.is_cuda
    adamw = torch.optim.AdamW(rest, lr=_LR, betas=(0.9, 0.98), weight_decay=_WEIGHT_DECAY, fused=fused)
    return adamw, Muon(hidden.values(), lr=_MUON_LR, momentum=0.95, weight_decay=_WEIGHT_DECAY)


def _hidden_matrices(model: MicroModel) -> Iterator[tuple[str, nn.Parameter]]:
    outer = ("embed_tokens", "lm_head", "ctc_lo", "chunk_head", "look_up")
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and not any(part in name for part in outer):
            yield name, parameter
