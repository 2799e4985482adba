"""Natural voices in training: sentences of everyday, Kokoro's graph, shards, going on from a checkpoint, the table."""

import json
import random
from dataclasses import astuple
from pathlib import Path

import kokoro
import numpy as np
import pytest
import soundfile
import torch
from accents import ENGLISH_VOICES, READINGS, Accent, draw_accent
from average import average
from evaluate_voices import Heard, _kokoro_clips, is_made_of, is_right, spoken_words, table
from everyday import DRILLS, ENGLISH_SAYINGS, EVERYDAY, MANDARIN_SAYINGS, is_reserved
from grammar import Grammar, Sentence, same, spoken_as
from graph import Graph
from mandarin import read_characters
from natural import natural_clips
from phonemes import SPACE, as_verb_or_time
from speak import _edges, _trim
from train.compose import NO_AUGMENTATION, Augmentation, Composer
from train.corpus import Corpus, Utterance, add_voices
from train.examine import Tally
from train.loop import score
from train.model import MicroConfig, MicroModel
from train.start import start_from
from train.vocabulary import Vocabulary, learn_vocabulary, read_vocabulary

MICRO = Path(__file__).parents[2] / "demos" / "micro"
CHECKPOINT = MICRO / "checkpoint"
HELLO = Sentence(
    language="英文",
    units=(
        same("Hello"),
        same(" there."),
    ),
)


def spoken(sentence: Sentence | None, seconds: float = 0.5) -> kokoro.Spoken:
    units = [astuple(unit) for unit in sentence.units] if sentence else []
    count = len(sentence.words) if sentence else 3
    samples = np.sin(np.arange(round(seconds * kokoro.SAMPLE_RATE)) / 5).astype(np.float32)
    edges = np.linspace(0, seconds, 2 * count, dtype=np.float32).reshape(count, 2)
    return kokoro.Spoken({"language": "英文", "units": units}, "af_sky", samples, edges)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    kokoro.write_shard(folder / "00000.npz", [spoken(HELLO), spoken(None)])
    kokoro.write_shard(folder / "00001.npz", [spoken(HELLO, 0.75)])
    return folder


@pytest.mark.parametrize("grammar", [*EVERYDAY, *DRILLS])
def test_every_template_can_be_drawn_and_said(grammar: Grammar) -> None:
    for template in grammar.templates:
        one = Grammar(language=grammar.language, templates=(template,), slots=grammar.slots)
        sentence = one.draw(random.Random(template))
        assert sentence.words
        if grammar.language == "中文":
            assert len(read_characters(sentence.spoken)) == len(sentence.words)


def test_sayings_are_distinct_and_never_reserved() -> None:
    for sayings in (ENGLISH_SAYINGS, MANDARIN_SAYINGS):
        assert len(sayings) == len(set(sayings)) > 50
    assert not any(is_reserved(Sentence(language="英文", units=(same(each),))) for each in ENGLISH_SAYINGS)
    assert not any(is_reserved(Sentence(language="中文", units=(same(each),))) for each in MANDARIN_SAYINGS)


def test_longer_sentences_are_reserved_as_in_the_other_grammars() -> None:
    drawn = [grammar.draw(random.Random(number)) for grammar in EVERYDAY for number in range(200)]
    reserved = [sentence for sentence in drawn if is_reserved(sentence)]
    assert reserved
    assert all(sentence.is_held_out and len(sentence.words) > 1 for sentence in reserved)


def test_a_shard_gives_back_what_was_spoken(shards: Path) -> None:
    found = list(kokoro.read_shards(shards))
    assert [sentence for sentence, _, _, _ in found] == [HELLO, None, HELLO]
    assert [len(edges) for _, edges, _, _ in found] == [2, 0, 2]
    assert [len(samples) for _, _, samples, _ in found] == [8000, 8000, 12000]
    assert np.abs(found[2][2]).max() == 32_000


def test_natural_sentences_get_their_share_and_unknown_speech_joins_the_sounds(shards: Path) -> None:
    others = [Utterance(HELLO, np.zeros((2, 2), np.float32), 0, 0, 10) for _ in range(12)]
    sounds = [Utterance(None, np.zeros((0, 2), np.float32), -1, 0, 10) for _ in range(4)]
    empty = Corpus(others, sounds, np.zeros(10, np.int16))
    corpus = add_voices(empty, kokoro.read_shards(shards), "natural voices", share=0.5)
    assert len(corpus.speech) == 24
    assert len(corpus.sounds) == 8
    assert all(each.sentence is None for each in corpus.sounds)
    last = corpus.speech[-1]
    assert (last.offset, last.num_samples, len(corpus.audio)) == (10 + 16_000, 12_000, 10 + 28_000)


def test_held_out_clips_are_sentences_between_silences(shards: Path) -> None:
    clips = natural_clips(shards)
    assert [clip.condition for clip in clips] == ["en_kokoro", "en_kokoro"]
    assert len(clips[0].waveform) == 8000 + 2 * 4800
    assert not clips[0].waveform[:4800].any()
    assert clips[0].words[0][1] == pytest.approx(0.3)


def test_figures_of_a_mandarin_clip_are_read_in_mandarin() -> None:
    clip = Heard(source=Path(), words="二十二", kind="Kokoro", itn=True, is_mandarin=True)
    assert is_right(clip, "22。", False)


def test_no_style_of_the_training_holds_a_held_out_voice(tmp_path: Path) -> None:
    names = (*kokoro.HELD_OUT_VOICES, "af_sky", "bm_fable", "zf_xiaobei", "zm_yunjian")
    np.savez(tmp_path / "voices.npz", **{name: np.full((128, 256), n) for n, name in enumerate(names)})
    voices = kokoro.read_voices(tmp_path / "voices.npz", held_out=False)
    assert not set(voices) & set(kokoro.HELD_OUT_VOICES)
    assert set(kokoro.read_voices(tmp_path / "voices.npz", held_out=True)) == set(kokoro.HELD_OUT_VOICES)
    for language in kokoro.LANGUAGES:
        assert sum(name[0] in ("ab" if language == "英文" else "z") for name in kokoro.HELD_OUT_VOICES) == 3
    drawn = [kokoro.draw_style(voices, "z", random.Random(number)) for number in range(40)]
    assert all(name[0] == "z" for name, _ in drawn)  # the manner is a native's
    assert len({style[0, 0] for _, style in drawn}) > 10  # blends


def test_an_accent_has_the_manner_of_its_voices_and_any_timbre() -> None:
    voices = {name: np.full((128, 256), n, np.float32) for n, name in enumerate(("af_sky", "ff_siwis", "zm_yunjian"))}
    drawn = [kokoro.draw_style(voices, "f", random.Random(number)) for number in range(40)]
    assert all(name.startswith("ff_siwis") for name, _ in drawn)
    timbres = {round(float(style[0, 0]), 2) for _, style in drawn}
    assert min(timbres) < 0.5 and max(timbres) > 1.5


def test_an_accent_replaces_each_sound_once_and_the_longest_first() -> None:
    accent = Accent("en-us", {"iː": "i", "i": "e", "θ": "t", "t": "ʈ"}, "ei")
    assert accent.apply("θɹˈiː tˈi") == "tɹˈi ʈˈe"
    assert Accent().apply("θɹˈiː") == "θɹˈiː"


def test_most_english_has_a_native_accent_and_foreign_ones_keep_some_of_its_sounds() -> None:
    drawn = [draw_accent(random.Random(number)) for number in range(400)]
    native = [accent for accent in drawn if accent.voices == ENGLISH_VOICES]
    assert 220 < len(native) < 340
    assert {accent.reading for accent in native} == set(READINGS)
    assert not any(accent.sounds for accent in native)
    french = [accent.apply("θɹˈiː") for accent in drawn if accent.voices == "f"]
    assert len(set(french)) > 4
    assert "sʁˈi" in french


def _falls(samples: np.ndarray, band: tuple[int, int], below: float, after: float, before: float) -> float:
    """Where the band's level first falls so many dB below its highest, between two moments; in 10 ms steps."""
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160) * np.hanning(160)
    hz = np.fft.rfftfreq(160, 1 / 16_000)
    power = np.square(np.abs(np.fft.rfft(frames)))[:, (hz >= band[0]) & (hz < band[1])].sum(1)
    level = 10 * np.log10(power / power.max() + 1e-9)
    return float(np.flatnonzero(level[round(100 * after) : round(100 * before)] < below)[0]) / 100 + after


def test_words_of_a_natural_voice_begin_where_they_are_heard() -> None:
    samples, _ = soundfile.read(MICRO / "clips" / "en_natural.flac")
    voiced, hiss = (100, 1200), (3000, 8000)
    heard = {
        "set": float(np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())[0]) / 16_000,
        "timer": _falls(samples, voiced, -25, 0.45, 0.65),  # the mouth closes
        "for": _falls(samples, voiced, -25, 0.75, 1.0),
        "fifty": _falls(samples, voiced, -25, 0.97, 1.1),
        "nine": _falls(samples, hiss, -35, 1.28, 1.45),  # a vowel ends in a nasal
    }
    # What Kokoro's durations said of this clip: the ends of the silence, "set", a space, "a", a space, ...
    ends = [0.383, 0.508, 0.533, 0.558, 0.608, 0.908, 0.958, 1.058, 1.108, 1.358, 1.408, 1.608, 1.633, 2.005]
    words = ("set", "a", "timer", "for", "fifty", "nine", "minutes")
    edges = dict(zip(words, _edges([[1], *[[SPACE, 1]] * 6], np.array(ends)), strict=True))
    for word, start in heard.items():
        assert edges[word][0] == pytest.approx(start, abs=0.03), word


def test_no_word_lies_in_the_silence_around_a_sentence() -> None:
    tone = np.pad(np.sin(np.arange(12_000) / 5), 12_000).astype(np.float32)
    samples, edges = _trim(tone, np.array([(0.3, 0.8), (0.8, 1.4)], np.float32))
    assert len(samples) / kokoro.SAMPLE_RATE == pytest.approx(0.58, abs=0.01)
    assert edges == pytest.approx(np.array([(0.04, 0.34), (0.34, 0.54)]), abs=0.005)


def test_the_graph_folds_whole_numbers_and_runs(tmp_path: Path) -> None:
    nodes = [
        ["DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"], {}],
        ["MatMulInteger", ["xq", "w", "xz", "wz"], ["y"], {}],
        ["Mul", ["xs", "ws"], ["s"], {}],
        ["Mul", ["y", "s"], ["scaled"], {}],
        ["Shape", ["scaled"], ["shape"], {"start": 0}],
        ["Reshape", ["scaled", "shape"], ["z"], {}],
        ["Atan", ["z"], ["angle"], {}],
    ]
    (tmp_path / "graph.json").write_text(json.dumps({"outputs": ["z", "angle"], "nodes": nodes}), "utf-8")
    weight = np.random.default_rng(0).integers(-128, 127, (3, 4)).astype(np.int8)
    np.savez(tmp_path / "weights.0.npz", w=weight, wz=np.int8(3), ws=np.float32(0.25))
    x = torch.tensor([[0.5, -1.0, 2.0]])
    scaled, angle = Graph(tmp_path, torch.device("cpu")).run({"x": x})
    torch.testing.assert_close(scaled, x @ (torch.from_numpy(weight).float() - 3) * 0.25)
    torch.testing.assert_close(angle, scaled.atan())


def test_the_graph_has_the_gates_of_an_lstm_in_onnx_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = torch.nn.LSTM(3, 2, bidirectional=True)

    def onnx_order(tensor: torch.Tensor) -> torch.Tensor:
        entry, forget, cell, exit_ = tensor.split(2)
        return torch.cat([entry, exit_, forget, cell])

    inner = torch.stack([onnx_order(own.weight_ih_l0).T, onnx_order(own.weight_ih_l0_reverse).T])
    outer = torch.stack([onnx_order(own.weight_hh_l0).T, onnx_order(own.weight_hh_l0_reverse).T])
    sides = ((own.bias_ih_l0, own.bias_hh_l0), (own.bias_ih_l0_reverse, own.bias_hh_l0_reverse))
    bias = torch.stack([torch.cat([onnx_order(each) for each in side]) for side in sides])
    ones, zeros = np.ones(2, np.float32), np.zeros((2, 1, 2), np.float32)
    arrays = {"inner": inner, "outer": outer, "bias": bias}
    np.savez(tmp_path / "weights.0.npz", one=ones, zero=zeros, **{n: t.detach().numpy() for n, t in arrays.items()})
    inputs = ["x", "inner", "outer", "bias", "", "zero", "zero", "", "one", "one", "one", "one"]
    described = {"outputs": ["y"], "nodes": [["DynamicQuantizeLSTM", inputs, ["y", "h", "c"], {}]]}
    (tmp_path / "graph.json").write_text(json.dumps(described), "utf-8")
    x = torch.randn(5, 1, 3)
    (found,) = Graph(tmp_path, torch.device("cpu")).run({"x": x})
    torch.testing.assert_close(found.transpose(1, 2).reshape(5, 1, 4), own(x)[0].detach())


def test_the_graph_has_a_positive_angle_for_negative_numbers_in_a_spectrum(tmp_path: Path) -> None:
    described = {"outputs": ["y"], "nodes": [["STFT", ["x", "step", "window", ""], ["y"], {"onesided": 1}]]}
    (tmp_path / "graph.json").write_text(json.dumps(described), "utf-8")
    np.savez(tmp_path / "weights.0.npz", step=np.int64(4), window=np.ones(4, np.float32))
    (found,) = Graph(tmp_path, torch.device("cpu")).run({"x": torch.tensor([[-3.0, 1.0, -2.0, 1.0]])})
    torch.testing.assert_close(found[0, 0, :, 0], torch.tensor([-3.0, -1.0, -7.0]))
    assert found[0, 0, 0, 1] > 0
    assert found[0, 0, 2, 1] > 0


def test_going_on_from_a_checkpoint_keeps_its_weights_and_makes_new_tokens_of_known_ones() -> None:
    old = read_vocabulary(CHECKPOINT / "Qwen3-0.6B" / "tokenizer.json")
    new = learn_vocabulary(seed=1)
    model = _model(new)
    start_from(model, new, CHECKPOINT)
    weights = torch.load(CHECKPOINT / "model.pt", weights_only=True)["state_dict"]
    table_, own = weights["llm.model.embed_tokens.weight"].float(), model.llm.state_dict()["model.embed_tokens.weight"]
    shared = next(piece for piece in new.pieces if len(piece) > 4 and piece in old.pieces)
    torch.testing.assert_close(own[new.pieces.index(shared)], table_[old.pieces.index(shared)])
    torch.testing.assert_close(own[new.end_id], table_[old.end_id])
    name = "llm.model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(model.state_dict()[name], weights[name].float())


def test_a_mean_of_two_checkpoints_lies_where_its_weight_says(tmp_path: Path) -> None:
    for name, value in (("one", 1.0), ("two", 3.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "multilingual.tiktoken").write_text("YQ== 0")
        torch.save({"state_dict": {"w": torch.full((2,), value, dtype=torch.bfloat16)}}, tmp_path / name / "model.pt")
    average(tmp_path / "one", tmp_path / "two", tmp_path / "mean", weight=0.75)
    found = torch.load(tmp_path / "mean" / "model.pt", weights_only=True)["state_dict"]["w"]
    assert found.dtype == torch.bfloat16 and found.tolist() == [2.5, 2.5]
    (tmp_path / "two" / "multilingual.tiktoken").write_text("Yg== 0")
    with pytest.raises(ValueError, match="vocabularies"):
        average(tmp_path / "one", tmp_path / "two", tmp_path / "other", weight=0.75)


def _model(vocabulary: Vocabulary) -> MicroModel:
    config = MicroConfig(
        num_tokens=vocabulary.num_tokens,
        llm_rows=vocabulary.llm_size,
        end_id=vocabulary.end_id,
        pad_id=vocabulary.special_id("<|endoftext|>"),
    )
    return MicroModel(config)


def test_natural_voices_and_people_count_as_much_as_all_others_when_models_are_compared() -> None:
    tallies = {
        "en_clean": Tally(errors=1, characters=100),
        "zh_clean": Tally(errors=3, characters=100),
        "en_kokoro": Tally(errors=10, characters=100),
        "en_people": Tally(errors=30, characters=100),
        "music": Tally(),
    }
    assert score(tallies, {}) == pytest.approx((2 + (10 + 30) / 2) / 2)
    assert score({"en_clean": Tally(errors=1, characters=100)}, {}) == pytest.approx(1)


def test_a_model_that_unlearns_what_it_knew_is_not_the_better_one() -> None:
    bars = {"en_clean": 1.0, "zh_clean": 1.0}
    before = {"en_clean": Tally(errors=10, characters=1000), "en_kokoro": Tally(errors=12, characters=100)}
    within = {"en_clean": Tally(errors=13, characters=1000), "en_kokoro": Tally(errors=10, characters=100)}
    beyond = {"en_clean": Tally(errors=20, characters=1000), "en_kokoro": Tally(errors=10, characters=100)}
    assert score(within, bars) < score(before, bars) < score(beyond, bars)


def test_a_room_rings_on_after_a_sound() -> None:
    composer = Composer(torch.zeros(1, dtype=torch.int16), seed=0)
    response = torch.fft.irfft(composer._rooms(4, 16_000, 1.0), n=16_000)
    assert torch.allclose(response[:, 0], torch.ones(4), atol=1e-4)
    assert bool((response[:, 320:1600].square().sum(1) > 1e-4).all())
    dry = torch.fft.irfft(composer._rooms(4, 16_000, NO_AUGMENTATION.rooms), n=16_000)
    assert float(dry[:, 1:].abs().max()) < 1e-5
    assert Augmentation().rooms > 0


def test_a_sentence_is_to_be_written_as_its_clip_asks(tmp_path: Path) -> None:
    year = Sentence(language="英文", units=(same("It started in "), spoken_as("twenty fifteen", "2015"), same(".")))
    kokoro.write_shard(tmp_path / "00000.npz", [spoken(year) for _ in range(8)])
    clips = _kokoro_clips(tmp_path, "held-out voices", tmp_path)
    assert {clip.itn for clip in clips} == {True, False}
    for clip in clips:
        written = "It started in 2015." if clip.itn else "It started in twenty fifteen."
        assert is_right(clip, written, is_marked=False)


@pytest.mark.parametrize(
    ("before", "word", "said"),
    [("eleven", "am", "ˈeɪˈɛm"), ("i", "am", "-"), ("", "am", "-"), ("john", "lives", "lˈɪvz"), ("not", "open", "-")],
)
def test_times_of_day_are_spelled_and_verbs_are_read_as_verbs(before: str, word: str, said: str) -> None:
    assert as_verb_or_time(before, word, "-") == said


def test_words_are_compared_as_they_are_said() -> None:
    assert spoken_words("It's 25.") == "it's twenty five"
    assert spoken_words("007") == "zero zero seven"
    assert spoken_words("调到25。") == "调到二十五"


def test_known_is_a_saying_or_made_of_known_words() -> None:
    known = frozenset(("hello", "five", "thank you", "苹果"))
    assert is_made_of("five hello", ["five", "hello"], known)
    assert is_made_of("苹果", ["苹", "果"], known)
    assert not is_made_of("five elephants", ["five", "elephants"], known)


def test_unknown_speech_is_right_when_empty_or_marked_only() -> None:
    known = Heard(source=Path("a"), words="five", kind="known")
    unknown = Heard(source=Path("b"), words="elephants", kind="unknown", is_known=False)
    assert is_right(known, "5.", False)
    assert not is_right(known, "", False)
    assert is_right(unknown, "", False)
    assert is_right(unknown, "Five.", True)
    assert not is_right(unknown, "Five.", False)
    lines = table([known, unknown], [("5.", False), ("Five.", False)]).splitlines()
    assert lines[2:] == ["| known | 1 | 0.00 | 100.0 |", "| unknown | 1 | - | 0.0 |"]
