"""What the micro checkpoint is trained on, and how its network is set up; espeak-ng is not needed."""

import ast
import math
import random
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import english
import numpy as np
import pytest
import torch
from espeak import SAMPLE_RATE
from everyday import is_reserved
from grammar import compose, same
from heldout import CONDITIONS, draw_clips
from names import draw_nearest_name, is_heard_in, sound, spellings
from train.align import align_head, aligned_ctc_loss
from train.batches import NO_ENTRY, NO_WORD, Batch, BatchLimits, Collator, cut_into_batches
from train.codes import FRAMES_BACK, WIDE_KERNEL, WIDE_SHIFT, code_table, prepare_encoder, route_adaptor, widen
from train.compose import NO_AUGMENTATION, Augmentation, Composer, to_device
from train.corpus import Corpus, Utterance, build_corpus
from train.examine import Examiner, Tally
from train.lessons import LONGEST_SAMPLES, MAX_HOTWORDS, Lesson, Mixture, Teacher, _whole
from train.loop import Trainer, TrainingOptions
from train.model import MicroConfig, MicroModel, losses
from train.muon import orthogonalise
from train.vocabulary import SPECIAL_TOKENS, Vocabulary, learn_vocabulary
from voices import HELD_OUT_VARIANTS, TRAINING_VARIANTS

from tests.demos.stand_in import use_stand_in
from twostage_asr.encoders.adaptor import AdaptorConfig, TransformerAdaptor
from twostage_asr.encoders.fbank import num_lfr_frames
from twostage_asr.encoders.sensevoice import SenseVoiceConfig, SenseVoiceEncoder
from twostage_asr.engine.families.fun_asr_nano import FunASRNano


@pytest.fixture(scope="module")
def corpus() -> Iterator[Corpus]:
    with pytest.MonkeyPatch.context() as patch:
        use_stand_in(patch)
        yield build_corpus(num_sentences=480, num_sounds=20, seed=3, num_workers=2)


@pytest.fixture(scope="module")
def lessons(corpus: Corpus) -> list[Lesson]:
    teacher = Teacher(corpus, random.Random(0))
    return [teacher.draw(Mixture.at(1.0)) for _ in range(600)]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return learn_vocabulary(seed=0)


@pytest.fixture(scope="module")
def batch(lessons: list[Lesson], vocabulary: Vocabulary) -> Batch:
    return Collator(vocabulary).collate(lessons[:6])


@pytest.fixture(scope="module")
def model(vocabulary: Vocabulary) -> MicroModel:
    torch.manual_seed(0)
    pad_id = vocabulary.special_id("<|endoftext|>")
    config = MicroConfig(
        num_tokens=vocabulary.num_tokens, llm_rows=vocabulary.llm_size, end_id=vocabulary.end_id, pad_id=pad_id
    )
    return MicroModel(config)


def test_no_voice_of_the_held_out_clips_is_trained_on() -> None:
    assert len(HELD_OUT_VARIANTS) >= 4
    assert not set(HELD_OUT_VARIANTS) & set(TRAINING_VARIANTS)


def test_no_sentence_of_the_held_out_clips_is_trained_on(corpus: Corpus) -> None:
    sentences = [utterance.sentence for utterance in corpus.speech]
    assert len(sentences) > 400
    assert not any(sentence is None or is_reserved(sentence) for sentence in sentences)
    clips = list(draw_clips(CONDITIONS["zh_itn"], 4)) + list(draw_clips(CONDITIONS["mixed"], 4))
    assert all(sentence.is_held_out for clip in clips for sentence in clip.recipe.sentences)


def test_a_held_out_set_begins_with_every_smaller_one(corpus: Corpus) -> None:
    few, more = (list(draw_clips(CONDITIONS["en_hotword"], count)) for count in (5, 17))
    assert [clip.recipe for clip in few] == [clip.recipe for clip in more[:5]]
    later = list(draw_clips(CONDITIONS["en_hotword"], 1, first=16))
    assert later[0].recipe == more[16].recipe


def test_lessons_lie_within_their_limits(lessons: list[Lesson], corpus: Corpus) -> None:
    assert max(lesson.num_samples for lesson in lessons) > 20 * SAMPLE_RATE
    for lesson in lessons:
        assert lesson.num_samples <= LONGEST_SAMPLES
        assert len(lesson.questions) in (1, 2)
        for question in lesson.questions:
            hotwords = question.request.hotwords
            assert len(hotwords) == len(set(hotwords)) <= MAX_HOTWORDS
            assert bool(question.text) == bool(lesson.words)
            assert all(name in question.text for name, _ in question.names)
            assert {hotword for _, hotword in question.names} <= {None, *hotwords}
        for segment in lesson.segments:
            assert segment.start + segment.length <= lesson.num_samples
            assert segment.source + segment.length * segment.speed <= len(corpus.audio) + 1
        assert all(0 <= middle < lesson.num_samples for _, middle in lesson.words)


def test_what_is_said_of_a_cut_sentence_is_no_sentence() -> None:
    slots = [same("Paris"), same("today")]
    sentences = [
        compose("英文", f"What is the weather in {template}?", slots) for template in ("{city}", "{city} {when}")
    ]
    speech = [
        Utterance(each, np.linspace(0, 1, 2 * len(each.words), dtype=np.float32).reshape(-1, 2), 0, 0, SAMPLE_RATE)
        for each in sentences
    ]
    teacher = Teacher(Corpus(speech, [], np.zeros(SAMPLE_RATE, np.int16)), random.Random(0))
    cut = {teacher._cut(_whole(speech[1])).sentence.spoken for _ in range(20)}
    assert cut == {"what is the weather in"}


def test_a_name_is_respelled_only_if_a_hotword_asks_for_it(lessons: list[Lesson]) -> None:
    others = {other for name in (*english.FIRST_NAMES, *english.SURNAMES) for other in spellings(name)[1:]}
    respelled = 0
    for question in (question for lesson in lessons for question in lesson.questions):
        for other in others & set(re.findall(r"\w+", question.text)):
            respelled += 1
            assert any(other in hotword.split() for hotword in question.request.hotwords), question
    assert respelled > 10


@pytest.mark.parametrize("name", ["魏静", "张三", "陆婷轩", "Brown", "Jon", "Mary Reid"])
def test_the_nearest_names_go_on_after_the_name_or_have_all_its_parts_but_one(name: str) -> None:
    rng, parts = random.Random(0), sound(name)
    full = 2 if name.isascii() else 3
    for nearest in (draw_nearest_name(name, rng) for _ in range(200)):
        assert len(sound(nearest)) == full and not is_heard_in(nearest, name)
        same = [part == other for part, other in zip(parts, sound(nearest), strict=False)]
        assert all(same) if len(parts) < full else sum(same) == full - 1


def test_lists_hold_names_that_begin_with_the_one_heard(lessons: list[Lesson]) -> None:
    longer = {True: 0, False: 0}
    for question in (question for lesson in lessons for question in lesson.questions):
        for name, _ in question.names:
            heard = sound(name)
            for hotword in question.request.hotwords:
                longer[name.isascii()] += sound(hotword)[: len(heard)] == heard and len(sound(hotword)) > len(heard)
    assert min(longer.values()) > 100


def test_speakers_take_turns_after_long_pauses_and_sounds_in_both_languages(
    lessons: list[Lesson], corpus: Corpus
) -> None:
    sounds = {sound.offset for sound in corpus.sounds}
    turns = beside_sounds = 0
    for lesson in lessons:
        pauses = [after.start - before.start - before.length for before, after in pairwise(lesson.segments)]
        assert max(pauses, default=0) <= 2.5 * SAMPLE_RATE
        is_english = [word.isascii() for word, _ in lesson.words]
        turns += len(set(is_english)) == 2 and max(pauses, default=0) > SAMPLE_RATE
        beside_sounds += bool(lesson.words) and any(segment.source in sounds for segment in lesson.segments)
    assert 0.08 < turns / len(lessons) < 0.2
    assert 0.04 < beside_sounds / len(lessons) < 0.16


def test_the_prompt_is_the_engines(lessons: list[Lesson], vocabulary: Vocabulary) -> None:
    lesson = next(lesson for lesson in lessons if len(lesson.questions) == 2)
    batch = Collator(vocabulary).collate([lesson])
    num_audio = len(batch.audio_frames) // 2
    assert batch.audio_rows.tolist() == [0] * 2 * num_audio
    for row, question in enumerate(lesson.questions):
        prompt = FunASRNano().prompt_text(question.request)
        prefix, suffix = vocabulary.encode(prompt.prefix), vocabulary.encode(prompt.suffix)
        answer = [*vocabulary.encode(question.text), vocabulary.end_id]
        ids = [*prefix, *[0] * num_audio, *suffix, *answer]
        assert batch.token_ids[row, : len(ids)].tolist() == ids
        assert batch.answer_ids[batch.answer_rows == row].tolist() == answer
        first = row * batch.token_ids.shape[1] + len(prefix)
        assert batch.audio_places[row * num_audio :][:num_audio].tolist() == list(range(first, first + num_audio))


def test_look_ups_ask_for_the_hotword_that_says_how_to_write_the_name(
    lessons: list[Lesson], vocabulary: Vocabulary
) -> None:
    batch = Collator(vocabulary).collate(lessons)
    questions = [question for lesson in lessons for question in lesson.questions]
    tokens = batch.token_ids.reshape(-1)
    for question, places in zip(questions, batch.entry_places, strict=True):
        hotwords = question.request.hotwords
        assert ((places == NO_ENTRY) == (np.arange(MAX_HOTWORDS) >= len(hotwords))).all()
        for hotword, place in zip(hotwords, places, strict=False):
            assert hotword.endswith(vocabulary.tokenizer.decode([tokens[place]]).strip(" "))
    asked = {True: 0, False: 0}
    for place, row, target in zip(batch.name_places, batch.name_rows, batch.name_targets, strict=True):
        question, token = questions[row], vocabulary.tokenizer.decode([tokens[place + 1]]).strip(" ")
        hotword = question.request.hotwords[target] if target < MAX_HOTWORDS else None
        assert any(token in name and hotword == says for name, says in question.names)
        asked[hotword is None] += 1
    assert min(asked.values()) > 50


def test_both_rates_ask_for_the_same_answers(lessons: list[Lesson], vocabulary: Vocabulary) -> None:
    low = Collator(vocabulary).collate(lessons[:6])
    full = Collator(vocabulary).collate(lessons[:6], low_frame_rate=False)
    assert low.answer_ids.tolist() == full.answer_ids.tolist()
    assert 7 < len(full.audio_frames) / len(low.audio_frames) <= 8


def test_batches_hold_every_lesson_once_within_the_limits(lessons: list[Lesson]) -> None:
    limits = BatchLimits(audio_s=120.0, clips=30)
    batches = cut_into_batches(lessons, limits)
    assert sorted(map(id, lessons)) == sorted(id(lesson) for batch in batches for lesson in batch)
    assert all(limits.fits(len(batch), max(lesson.num_samples for lesson in batch)) for batch in batches)


def test_words_are_named_in_the_slot_in_which_they_are_said(batch: Batch, lessons: list[Lesson]) -> None:
    for lesson, slots in zip(lessons, batch.slot_words, strict=False):
        spoken = {middle // (960 * 8) for _, middle in lesson.words}
        assert {slot for slot, words in enumerate(slots) if (words != NO_WORD).any()} <= spoken | {len(slots) - 1}


def test_clips_are_cut_from_the_corpus(batch: Batch, corpus: Corpus) -> None:
    composer = Composer(torch.from_numpy(corpus.audio), seed=0)
    waveforms = composer._cut(to_device(batch, torch.device("cpu")))
    for row, start, length, source, speed in zip(
        batch.segment_rows,
        batch.segment_starts,
        batch.segment_lengths,
        batch.segment_sources,
        batch.segment_speeds,
        strict=True,
    ):
        heard = waveforms[row, start : start + length].numpy()
        place = np.arange(length) * np.float64(speed)
        meant = np.interp(place + source, np.arange(len(corpus.audio)), corpus.audio)
        assert np.corrcoef(heard, meant)[0, 1] > 0.999


def test_augmented_features_are_finite_and_differ(batch: Batch, corpus: Corpus) -> None:
    composer = Composer(torch.from_numpy(corpus.audio), seed=0)
    tensors = to_device(batch, torch.device("cpu"))
    plain, lens = composer.features(tensors, NO_AUGMENTATION)
    changed, same_lens = composer.features(tensors, Augmentation())
    assert plain.isfinite().all() and changed.isfinite().all()
    assert lens.tolist() == same_lens.tolist()
    assert not torch.allclose(plain, changed)


def test_every_parameter_gets_a_gradient(model: MicroModel, batch: Batch, corpus: Corpus) -> None:
    tensors = to_device(batch, torch.device("cpu"))
    features, lens = Composer(torch.from_numpy(corpus.audio), seed=0).features(tensors, Augmentation())
    found = losses(model(features, lens, tensors), lens, tensors)
    torch.stack(list(found.values())).sum().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_tokens_may_be_emitted_around_the_middle_of_their_words(lessons: list[Lesson], vocabulary: Vocabulary) -> None:
    spoken = [lesson for lesson in lessons if len(lesson.words) == len(vocabulary.ctc.encode(lesson.ctc_text))][:100]
    batch = Collator(vocabulary).collate(spoken)
    middles = [middle / 960 for lesson in spoken for _, middle in lesson.words]
    assert len(middles) > 300
    narrow = np.diff(batch.ctc_windows, axis=1)[:, 0] <= 3
    assert narrow.mean() > 0.7  # the others write something else than was said
    first, last = batch.ctc_windows[narrow].T
    assert (first - 1.5 <= np.array(middles)[narrow]).all() and (np.array(middles)[narrow] <= last + 1.5).all()


def test_the_aligned_loss_is_plain_ctc_where_tokens_may_be_anywhere(batch: Batch) -> None:
    torch.manual_seed(0)
    lens = torch.tensor([num_lfr_frames(n) for n in batch.sample_lens.tolist()])
    tensors = dict(to_device(batch, torch.device("cpu")))
    classes = int(tensors["ctc_ids"].max()) + 2
    log_probs = torch.randn(len(lens), int(lens.max()), classes).log_softmax(-1)
    aligned = aligned_ctc_loss(log_probs, lens, tensors)
    tensors["ctc_windows"] = torch.stack(
        [torch.zeros(len(tensors["ctc_ids"])), lens[tensors["ctc_rows"]] - 1], 1
    ).long()
    plain = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1), tensors["ctc_ids"], lens, tensors["ctc_lens"], blank=classes - 1, reduction="sum"
    )
    free = aligned_ctc_loss(log_probs, lens, tensors)
    torch.testing.assert_close(free, plain / len(tensors["ctc_ids"]))
    assert aligned > free + 0.1


def test_the_head_learns_nothing_after_its_time(model: MicroModel, corpus: Corpus) -> None:
    before = [parameter.detach().clone() for parameter in model.acoustic.parameters()]
    align_head(model.acoustic, Composer(torch.from_numpy(corpus.audio), seed=0), iter(()), steps=5, until=0.0)
    torch.testing.assert_close([parameter.detach() for parameter in model.acoustic.parameters()], before)


def test_an_interrupted_training_ends_with_the_best_model(
    model: MicroModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> Iterator[Batch]:
        with torch.no_grad():
            model.chunk_head.weight.zero_()
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(Examiner, "examine", lambda *_, **__: {"en_clean": Tally(clips=1, characters=1)})
    best = model.chunk_head.weight.detach().clone()
    composer, kept = Composer(torch.from_numpy(corpus.audio), seed=0), []
    options = TrainingOptions(until=math.inf, steps=10, goes_on=True)
    examiner = Examiner([], learn_vocabulary(seed=0))
    trainer = Trainer(model, composer, interrupted(), examiner, options, lambda: kept.append(1))  # type: ignore[arg-type]
    assert not trainer.run()
    assert kept == [1]
    torch.testing.assert_close(model.chunk_head.weight.detach(), best)


def test_a_training_needs_nothing_of_the_command_line() -> None:
    micro = Path(english.__file__).parent
    reached, waiting = set(), ["make_checkpoint", "speak"]
    while waiting:
        name = waiting.pop()
        file = micro.joinpath(*name.split(".")).with_suffix(".py")
        if name in reached or not file.exists():
            continue
        reached.add(name)
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                found = ("train." if node.level else "") + str(node.module)
                assert not found.startswith("twostage_asr.engine.cli"), name
                waiting.append(found)
    assert {"evaluate", "train.examine", "kokoro"} <= reached


def test_the_wide_kernel_gives_what_the_table_gives() -> None:
    torch.manual_seed(0)
    sizes = {"output_dim": 64, "attention_heads": 4, "linear_units": 128, "num_blocks": 2, "tp_blocks": 1}
    narrow = SenseVoiceEncoder(SenseVoiceConfig(**sizes, kernel_size=11)).eval()
    weights = {f"e.{name}": tensor.clone() for name, tensor in narrow.state_dict().items()}
    prepare_encoder(narrow)
    weights = {f"e.{name}": tensor.clone() for name, tensor in narrow.state_dict().items()}
    widen(weights, "e.", 64)
    wide = SenseVoiceEncoder(SenseVoiceConfig(**sizes, kernel_size=WIDE_KERNEL, memory_shift=WIDE_SHIFT)).eval()
    wide.load_state_dict({name.removeprefix("e."): tensor for name, tensor in weights.items()})
    features, lens = torch.randn(2, FRAMES_BACK, 560) * 3 + 10, torch.tensor([FRAMES_BACK, 100])
    with torch.no_grad():
        expected, found = narrow(features, lens), wide(features, lens)
    torch.testing.assert_close(found[0], expected[0], atol=2e-3, rtol=0)
    torch.testing.assert_close(found[1, :100], expected[1, :100], atol=2e-3, rtol=0)


def test_routed_heads_look_at_the_frames_of_their_slot() -> None:
    torch.manual_seed(0)
    adaptor = TransformerAdaptor(AdaptorConfig(encoder_dim=128, llm_dim=128, ffn_dim=512, n_layer=1)).eval()
    codes = code_table(400)
    encoder_out = torch.cat([codes, 0.3 * torch.randn(400, 128 - codes.shape[1])], 1)[None]
    route_adaptor(adaptor, encoder_out, torch.tensor([400]))
    block = adaptor.blocks[0]
    with torch.no_grad():
        x = block.norm1(adaptor.linear2(torch.relu(adaptor.linear1(encoder_out))))
        q = block.self_attn.linear_q(x).unflatten(-1, (8, 16)).transpose(1, 2)
        k = block.self_attn.linear_k(x).unflatten(-1, (8, 16)).transpose(1, 2)
        best = (q @ k.mT)[0].argmax(-1)  # (head, frame)
    wanted = 8 * torch.arange(50) + torch.arange(8)[:, None]
    assert ((best[:, :50] - wanted).abs() <= 1).float().mean() > 0.95


def test_every_special_token_and_character_is_in_the_vocabulary(vocabulary: Vocabulary) -> None:
    assert [vocabulary.tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == list(
        range(vocabulary.num_tokens, vocabulary.num_tokens + 3)
    )
    text = "请打开 coffee 的图片。Set the volume to 25."
    assert vocabulary.tokenizer.decode(vocabulary.encode(text)) == text
    assert len(vocabulary.encode("我今天学了")) == 5


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 24, 24)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.min() > 0.5 and values.max() < 1.4
