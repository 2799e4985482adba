"""The recipe that trains an LLMASR: reading GGUF, texts, batches, and from a few steps to the engine's answers."""

import random
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperForConditionalGeneration,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from tests.byte_tokenizer import byte_tokenizer
from twostage_asr.convert.export import ensure_converted
from twostage_asr.convert.verify import verify_conversion
from twostage_asr.engine import AutoModelVLLM, Transcript
from twostage_asr.engine.transcript import TranscriptWarning, WarningCode

sys.path.append(str(Path(__file__).parents[2] / "demos" / "llm_asr"))
import label
import learn
import recognizer
from assemble import assemble
from gguf_llm import read_gguf, state_dict
from kokoro import write_shard
from label import accepted, is_part, phrases, spoken
from measure import heard, marks
from recognizer import ALPHA, RANK, Recognizer, Updated, read_whisper
from speech import LETTERS, MOST_S, NO_TOKEN, RATE, Batch, Batches, Corpus, Shards, collate, read_corpus
from texts import cleaned, sentences

from twostage_asr.encoders.whisper_features import num_mel_frames
from twostage_asr.engine.text import LLMTokenizer

MOST_TOKENS = 12  # of an answer: longer ones of such a model loop, and the engine decodes loops a second time
TEXTS = ("Yes.", "No, never.", "Open it now.", "Who is it?")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """whisper/ and llm/ in Hugging Face's layout, spoken/ and human/ with shards of noises that stand for sentences."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parts")
    sizes = {"d_model": 64, "encoder_layers": 1, "encoder_attention_heads": 1, "encoder_ffn_dim": 256}
    encoder = WhisperEncoder(WhisperConfig(**sizes, num_mel_bins=80))
    encoder.conv1.weight.data.mul_(10)  # so that sounds differ
    (folder / "whisper").mkdir()
    weights = {f"model.encoder.{name}": tensor.clone() for name, tensor in encoder.state_dict().items()}
    save_file(weights, folder / "whisper" / "model.safetensors")
    llm = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=256,
        eos_token_id=256,
        initializer_range=0.2,  # so large that what is heard changes what is written
    )
    LlamaForCausalLM(llm).to(torch.bfloat16).save_pretrained(folder / "llm")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token="<|endoftext|>")
    tokenizer.save_pretrained(folder / "llm")
    rng = np.random.default_rng(0)
    for half in ("spoken", "human/train", "human/kept"):
        (folder / half).mkdir(parents=True)
        said = [spoken(text, "voice", _sound(rng, place)) for place, text in enumerate(TEXTS)]
        write_shard(folder / half / "00000.npz", said)
    return folder


def _sound(rng: np.random.Generator, place: int) -> Any:
    time = np.arange(RATE // 2) / RATE
    tone = np.sin(2 * np.pi * 300 * (place + 1) * time) + 0.05 * rng.standard_normal(len(time))
    return tone.astype(np.float32)


@pytest.fixture(scope="module")
def corpus(parts: Path) -> Corpus:
    return read_corpus(shards(parts, "spoken"), shards(parts, "human/train"))


def shards(parts: Path, folder: str) -> Shards:
    return Shards([parts / folder], LLMTokenizer(parts / "llm"))


def new_model(parts: Path, corpus: Corpus) -> Recognizer:
    return Recognizer(
        parts / "whisper", parts / "llm", learn.tokens_of([corpus], [], LLMTokenizer(parts / "llm")), torch.float32
    )


def test_the_encoder_is_whisper_s(parts: Path) -> None:
    sizes = {"d_model": 64, "encoder_layers": 1, "encoder_attention_heads": 1, "encoder_ffn_dim": 256}
    theirs = WhisperEncoder(WhisperConfig(**sizes, num_mel_bins=80)).eval()
    stored = load_file(parts / "whisper" / "model.safetensors")
    theirs.load_state_dict({name.removeprefix("model.encoder."): tensor for name, tensor in stored.items()})
    corpus_ids = torch.tensor([1])
    ours = Recognizer(parts / "whisper", parts / "llm", corpus_ids, torch.float32).tower.audio_encoder
    features = torch.randn(1, 80, num_mel_frames(30 * RATE), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(features), theirs(features).last_hidden_state, atol=1e-4, rtol=1e-4)
    assert {"ln_post.weight", "blocks.0.attn.query.weight"} <= set(read_whisper(parts / "whisper"))


def test_a_few_steps_lower_the_losses_and_keep_the_best_model(
    parts: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learn, "_RATES", dict.fromkeys(learn._RATES, 5e-3))
    monkeypatch.setattr(recognizer, "_LENGTH_WEIGHT", 0.0)  # at such rates lengths grow for some steps
    model = new_model(parts, corpus)
    options = learn.Options(seconds=600, steps=8, size=4, examinations=0, held_out=1)
    trainer = learn.Trainer(model, corpus, corpus, shards(parts, "spoken"), options, goes_on=False)
    batch = collate([[each] for each in corpus.spoken], model.end_id, None)
    losses = [trainer._train_step(batch, 0.5) for _ in range(8)]
    assert bool((losses[-1][:3] < 0.9 * losses[0][:3]).all())
    trainer.examine(tmp_path)
    again = new_model(parts, corpus)
    again.load(tmp_path / "trained.safetensors")
    for name, tensor in model.trained().items():
        torch.testing.assert_close(again.state_dict()[name], tensor.float())


def test_the_head_learns_alone_at_first_and_a_stop_still_writes_the_model(
    parts: Path, corpus: Corpus, tmp_path: Path
) -> None:
    model = new_model(parts, corpus)
    options = learn.Options(seconds=600, steps=100, size=2, examinations=0, held_out=1)
    trainer = learn.Trainer(model, corpus, corpus, shards(parts, "spoken"), options, goes_on=False)
    before = model.trained()
    trainer._train_step(collate([[each] for each in corpus.spoken], model.end_id, None), 0.0)
    changed = [name for name, tensor in model.trained().items() if not tensor.equal(before[name])]
    moved = {".".join(name.split(".")[:2]) for name in changed}
    assert {"tower.audio_encoder", "tower.audio_adaptor"} <= moved
    assert not any(each.startswith("llm.") for each in moved)
    kinds = {learn._kind(name) for name in before}
    assert kinds == {*learn._RATES}
    trainer.stop()
    trainer.run(tmp_path)
    assert (tmp_path / "trained.safetensors").exists()


def test_what_is_spoken_during_the_training_is_learned_from(parts: Path, corpus: Corpus, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    write_shard(tmp_path / "00000.npz", [spoken(TEXTS[0], "voice", _sound(rng, 0))])
    growing = Shards([tmp_path], LLMTokenizer(parts / "llm"))
    first = read_corpus(growing, Shards([], LLMTokenizer(parts / "llm")))
    model = new_model(parts, corpus)
    options = learn.Options(seconds=600, steps=100, size=2, examinations=0, held_out=1)
    trainer = learn.Trainer(model, first, corpus, growing, options, goes_on=False)
    later = _sound(rng, 1)
    write_shard(tmp_path / "00001.npz", [spoken(TEXTS[1], "voice", later)])
    trainer.grow()
    trainer.grow()
    assert [each.text for each in first.spoken] == [*TEXTS[:2]]
    cut = collate([first.spoken[1:]], model.end_id, None)
    (waveform,) = trainer._composer.waveforms(cut.cut, learn.NO_AUGMENTATION)
    heard = waveform[: first.spoken[1].length - 1].numpy()
    assert np.corrcoef(heard, later[: len(heard)])[0, 1] > 0.999


def test_the_head_names_texts_that_are_still_to_be_spoken(parts: Path, corpus: Corpus, tmp_path: Path) -> None:
    tokenizer = LLMTokenizer(parts / "llm")
    (tmp_path / "plan.jsonl").write_text('{"units": [["Zq", "Zq", "Zq", null, false]], "words": [[1]]}\n')
    found = learn.tokens_of([corpus], learn.texts_of(tmp_path / "plan.jsonl"), tokenizer)
    assert {*tokenizer.encode("Zq"), *tokenizer.encode(" Zq"), *tokenizer.encode(TEXTS[0])} <= {*found.tolist()}


def test_letters_are_those_of_the_texts(corpus: Corpus) -> None:
    batch = collate([corpus.spoken[:2], corpus.sounds[:1], corpus.spoken[3:4]], 256, None)
    texts = ["".join(LETTERS[place - 1] for place in each) for each in batch.letters.split(batch.num_letters.tolist())]
    assert texts == ["yes no never", "", "who is it"]


def test_embeddings_become_as_long_as_words(parts: Path, corpus: Corpus) -> None:
    model = new_model(parts, corpus)
    audio = (100 * torch.randn(1, 300, 64) + model.middle).requires_grad_()
    none = torch.tensor([0])
    silence = Batch({}, torch.full((1, 1), NO_TOKEN), none[:0], none, torch.tensor([RATE]), [""])
    losses = model.losses(audio, silence, with_llm=False)
    losses.ctc.backward()
    assert audio.grad is not None
    assert bool(((audio.grad * (audio - model.middle)).sum(-1) > 0).all())


@torch.no_grad()
def test_the_engine_writes_what_training_would(parts: Path, corpus: Corpus, tmp_path: Path) -> None:
    """Equal tokens: the same weights, merged, under the same prompt."""
    torch.manual_seed(1)
    model = new_model(parts, corpus)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save(tmp_path / "trained.safetensors")
    assemble(parts / "whisper", parts / "llm", tmp_path / "trained.safetensors", tmp_path / "checkpoint")
    engine_dir = ensure_converted(tmp_path / "checkpoint", progress=False)
    verify_conversion(tmp_path / "checkpoint", engine_dir)
    rounded = new_model(parts, corpus)
    rounded.load(tmp_path / "trained.safetensors")
    weights = load_file(engine_dir / "llm" / "model.safetensors")
    for name, module in rounded.llm.named_modules():
        if isinstance(module, Updated):
            merged = module.linear.weight + ALPHA / RANK * module.lora_B @ module.lora_A
            torch.testing.assert_close(weights[f"{name}.weight"].float(), merged, rtol=0.01, atol=0.01)
            module.linear.weight.data = weights[f"{name}.weight"].float()
            module.lora_B.data.zero_()
    sounds = [corpus.samples[each.start : each.start + each.length] / np.float32(32_768) for each in corpus.spoken]
    samples = [np.tile(sound, 60) for sound in sounds]  # all of the window, whose last embedding counts most
    answers = rounded.decode(rounded.hear(torch.from_numpy(np.stack(samples))), MOST_TOKENS)
    clips = [(str(place), clip, RATE) for place, clip in enumerate(samples)]
    with AutoModelVLLM(engine_dir, backend="torch", dtype="fp32", encoder_dtype="fp32") as engine:
        found = [each.text for each in engine.generate(clips, vad=None, max_new_tokens=MOST_TOKENS)]
    assert found == [rounded.tokenizer.decode(ids).strip() for ids in answers]
    assert len(set(found)) > 1


def test_updates_begin_as_nothing_and_are_added_scaled(parts: Path, corpus: Corpus) -> None:
    updated = new_model(parts, corpus).llm.model.layers[0].mlp.up_proj
    x = torch.randn(2, 64)
    with torch.no_grad():
        torch.testing.assert_close(updated(x), updated.linear(x))
        updated.lora_B.normal_()
        weight = updated.linear.weight + ALPHA / RANK * updated.lora_B @ updated.lora_A
        torch.testing.assert_close(updated(x), x @ weight.T, atol=1e-3, rtol=1e-3)


def test_clips_fit_into_a_window_and_answers_join_their_texts(parts: Path, corpus: Corpus) -> None:
    batches = Batches(corpus, end_id=256, size=8, seed=1)
    for _ in range(6):
        batch = batches.draw()
        assert int(batch.cut["sample_lens"].max()) <= 30 * RATE
        ends = batch.cut["segment_starts"] + batch.cut["segment_lengths"]
        assert bool((ends <= batch.cut["sample_lens"][batch.cut["segment_rows"]]).all())
    joined = collate([corpus.spoken[:2]], 256, random.Random(1))
    answer = [token for token in joined.answers[0].tolist() if token != NO_TOKEN]
    assert LLMTokenizer(parts / "llm").decode(answer[:-1]) == "Yes. No, never."
    assert answer[-1] == 256
    assert MOST_S / 0.9 < 30 - 0.6


def test_sentences_are_plain() -> None:
    text = 'He said: "Mr. Smith -- go!" Then\nwe left; it was 25 past. NO. It was “cold”, wasn’t it?'
    assert [*sentences(text)] == ["He said, Mister Smith, go!", "It was cold, wasn't it?"]
    assert cleaned("1. Turn the light on") == "Turn the light on."
    assert cleaned("Café") is None


def test_labels_are_kept_if_whisper_is_sure_and_they_can_be_spoken_as_written() -> None:
    assert accepted("Chapter 17, when Wendy grew up.", -0.1, 3.0) == "Chapter seventeen, when Wendy grew up."
    assert accepted("Dated 30th April.", -0.1, 3.0) is None
    assert accepted("I am not sure.", -0.9, 3.0) is None
    assert accepted("So many words in so little time.", -0.1, 0.5) is None


def test_recordings_are_cut_in_their_pauses() -> None:
    rng = np.random.default_rng(0)
    noise = 1e-3 * rng.standard_normal(6 * RATE).astype(np.float32)
    noise[RATE // 10 : 2 * RATE] += np.sin(np.arange(2 * RATE - RATE // 10) / 8)  # two sounds, a pause of half a second
    noise[5 * RATE // 2 : 6 * RATE] += np.sin(np.arange(7 * RATE // 2) / 8)
    first, second = phrases(noise)
    assert abs(len(first) / RATE - 2.25) < 0.02 and len(first) + len(second) == len(noise)
    assert is_part("the moon.", "Over The moon, again.") and not is_part("moo", "Over the moon.")


def test_whisper_writes_several_recordings_as_it_writes_each(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    sizes |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 320}
    config = WhisperConfig(**sizes, pad_token_id=256, bos_token_id=256, eos_token_id=256, init_std=0.3)
    WhisperForConditionalGeneration(config).save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token="<|endoftext|>").save_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    heard = [rng.standard_normal(int(seconds * RATE)).astype(np.float32) for seconds in (3, 0.4, 1, 2, 5)]
    labeller = label.Labeller(tmp_path)
    together = labeller(heard)
    alone = [labeller([each])[0] for each in heard]
    assert [text for text, _ in together] == [text for text, _ in alone]
    np.testing.assert_allclose([mean for _, mean in together], [mean for _, mean in alone], atol=1e-4)
    assert len({mean for _, mean in together}) == len(heard)


def test_answers_of_a_batch_end_each_at_its_own_place(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        label.WhisperForConditionalGeneration,
        "from_pretrained",
        lambda _: _Scripted(*LLMTokenizer(parts / "llm").encode("A")),
    )
    rng = np.random.default_rng(0)
    heard = [rng.standard_normal(int(seconds * RATE)).astype(np.float32) for seconds in (3.2, 0.2, 1.2, 2.2)]
    found = label.Labeller(parts / "llm")(heard)
    assert [text for text, _ in found] == ["AAAAAA", "", "AA", "AAAA"]
    letter, end = (float(torch.tensor([logit] + [0.0] * 319).log_softmax(0)[0]) for logit in (9.0, 7.0))
    assert [mean for _, mean in found] == pytest.approx([(n * letter + end) / (n + 1) for n in (6, 0, 2, 4)], abs=1e-5)


class _Scripted(torch.nn.Module):
    """Stands for Whisper, and writes an A for each half second that is loud."""

    config = WhisperConfig()
    dtype = torch.float32

    def __init__(self, letter: int) -> None:
        super().__init__()
        self._letter = letter

    def get_encoder(self) -> Any:
        return lambda features: features

    def forward(self, encoder_outputs: torch.Tensor, past_key_values: int | None, **_: Any) -> Any:
        written = past_key_values or 0
        loud = (encoder_outputs.mean(1) > encoder_outputs.mean((1, 2))[:, None] + 0.5).sum(1) // 50
        logits = torch.zeros(len(loud), 1, 320)
        logits[:, 0, self._letter] = torch.where(loud > written, 9.0, 0.0)
        logits[:, 0, 256] = torch.where(loud > written, 0.0, 7.0)
        return SimpleNamespace(logits=logits, past_key_values=written + 1)


def test_long_recordings_are_cut_and_those_kept_back_are_not_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording of 40 s with a pause in the middle, and three of 2 s."""
    monkeypatch.setattr(label, "Labeller", _Counting)
    tone = np.sin(np.arange(20 * RATE) / 8).astype(np.float32) * 0.5
    long = np.concatenate([tone[: 18 * RATE], np.zeros(2 * RATE, np.float32), tone])
    for name, samples in {"a": long, "b": tone[: 2 * RATE], "c": tone[: 2 * RATE], "d": tone[: 2 * RATE]}.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE)
    label.label(tmp_path, tmp_path, tmp_path / "out", kept=2)
    written = {
        half: [voice for path in (tmp_path / "out" / half).glob("*.npz") for voice in np.load(path)["voices"].tolist()]
        for half in ("train", "kept")
    }
    assert written == {"train": ["a:0", "a:1", "c"], "kept": ["b", "d"]}


class _Counting:
    """Stands for Whisper, and is as sure of everything: two words a second."""

    def __init__(self, _: Path) -> None: ...

    def __call__(self, waveforms: Sequence[Any]) -> list[tuple[str, float]]:
        return [(" ".join(["Word"] * (2 * len(each) // RATE)), -0.1) for each in waveforms]


def test_answers_that_lack_their_end_must_be_marked_as_unfinished() -> None:
    def answer(text: str, *codes: WarningCode) -> Transcript:
        return Transcript("x", text, warnings=tuple(TranscriptWarning(code, "") for code in codes))

    whole = [answer("Today."), answer("Open the door."), answer("Close the door."), answer("Who is it?")]
    cut = [
        answer("Today."),  # so short that it has ended by itself
        answer("Open the", "no_word_times", "unfinished"),
        answer("Close the", "no_word_times"),
        answer("Who", "unfinished"),
    ]
    assert marks(whole, cut) == "2 of 3 marked"


def test_a_file_that_cannot_be_transcribed_is_no_empty_text() -> None:
    class Model:
        def generate(self, paths: list[str], **options: Any) -> list[Transcript]:
            error = {"status": "error", "error": "no such file"}
            return [Transcript(path, **(error if path == "b.wav" else {"text": str(options)})) for path in paths]

    model: Any = Model()
    assert [each.text for each in heard(model, ["a.wav"], vad=None)] == ["{'vad': None}"]
    with pytest.raises(RuntimeError, match=r"b\.wav: no such file"):
        heard(model, ["a.wav", "b.wav"])


def test_gguf_values_are_multiplied_out_and_rotations_are_put_apart(tmp_path: Path) -> None:
    """One head of 4: GGUF has its rows as 0, 2, 1, 3."""
    rows = np.arange(4, dtype=np.float32)[:, None].repeat(32, 1)
    q4 = b"".join(struct.pack("<ee", 1.0, 0.0) + bytes([row * 17] * 16) for row in (0, 2, 1, 3))
    q8 = struct.pack("<e", 0.5) + bytes(range(32))
    facts = {"llama.attention.head_count": 1, "llama.attention.head_count_kv": 1}
    path = tmp_path / "x.gguf"
    path.write_bytes(_gguf(facts, {"blk.0.attn_q.weight": (3, [32, 4], q4), "token_embd.weight": (8, [32, 1], q8)}))
    found = state_dict(read_gguf(path))
    np.testing.assert_array_equal(found["model.layers.0.self_attn.q_proj.weight"].numpy(), rows)
    np.testing.assert_array_equal(found["model.embed_tokens.weight"].numpy()[0], np.arange(32) / 2)
    path.write_bytes(_gguf(facts, {"token_embd.weight": (2, [32, 1], q8)}))
    with pytest.raises(ValueError, match=r"token_embd\.weight is of the type 2"):
        read_gguf(path)


def _gguf(facts: dict[str, int], tensors: dict[str, tuple[int, list[int], bytes]]) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts))
    head += b"".join(text(name) + struct.pack("<II", 4, value) for name, value in facts.items())
    data = b""
    for name, (kind, shape, raw) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data += raw + bytes(-len(raw) % 32)
    return head + bytes(-len(head) % 32) + data
