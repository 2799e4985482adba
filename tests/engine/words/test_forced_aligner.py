"""Qwen3-ForcedAligner: the times that transformers' model and the qwen-asr package choose, and honest refusals."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.qwen3_asr.feature_extraction_qwen3_asr import Qwen3ASRFeatureExtractor

from tests import tiny_models, tiny_qwen_asr
from tests.engine.families.cases import QWEN_ASR_ANSWERS
from tests.tones import SAMPLE_RATE, clip
from twostage_asr.convert.export import ensure_converted
from twostage_asr.convert.verify import verify_conversion
from twostage_asr.engine import (
    AudioTooLongError,
    AutoModelVLLM,
    CheckpointError,
    ConfigError,
    PromptTooLongError,
    Qwen3ForcedAligner,
)
from twostage_asr.engine.config import EngineConfig
from twostage_asr.engine.manifest import EngineManifest
from twostage_asr.engine.text import LLMTokenizer
from twostage_asr.engine.words.aligned_words import in_order

TEXTS = ("hello there you", "你好 world", "a b c d e f g h")
SECONDS = (2.3, 1.0, 9.7)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    directory = tmp_path_factory.mktemp("aligner")
    return directory, tiny_models.qwen3_forced_aligner(directory)


@pytest.fixture(scope="module")
def aligner(checkpoint: tuple[Path, Any]) -> Qwen3ForcedAligner:
    return Qwen3ForcedAligner.from_pretrained(checkpoint[0], device="cpu", dtype="fp32")


@torch.inference_mode()
def reference_times(directory: Path, model: Any, waveform: np.ndarray, words: list[str]) -> list[float]:
    features = Qwen3ASRFeatureExtractor()(waveform, sampling_rate=SAMPLE_RATE, padding=True, return_attention_mask=True)
    mask = torch.as_tensor(features["attention_mask"])
    seconds, rest = divmod(int(mask.sum()), 100)
    pads = "<|audio_pad|>" * (13 * seconds + -(-rest // 8))
    text = f"<|audio_start|>{pads}<|audio_end|>" + "".join(f"{word}<timestamp><timestamp>" for word in words)
    ids = torch.tensor([LLMTokenizer(directory / "twostage" / "llm").encode(text)])
    logits = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        input_features=torch.as_tensor(features["input_features"]),
        input_features_mask=mask,
    ).logits
    classes = logits.argmax(-1)[ids == model.config.timestamp_token_id]
    return [time / 1000 for time in in_order((classes * 80).tolist())]


def test_times_are_those_of_transformers_alone_and_in_a_batch(
    checkpoint: tuple[Path, Any], aligner: Qwen3ForcedAligner
) -> None:
    clips = [clip(s, seed) for seed, s in enumerate(SECONDS)]
    results = aligner.align([(one, SAMPLE_RATE) for one in clips], list(TEXTS), "English")
    assert len({item.start_time for result in results for item in result}) > 5, "times too dull to prove anything"
    for waveform, text, result in zip(clips, TEXTS, results, strict=True):
        expected = reference_times(*checkpoint, waveform, [item.text for item in result])
        assert [t for item in result for t in (item.start_time, item.end_time)] == expected
        assert aligner.align((waveform, SAMPLE_RATE), text, "en") == [result]


def test_words_and_times_are_those_of_the_package(tmp_path: Path) -> None:
    golden = QWEN_ASR_ANSWERS["alignment"]
    tiny_qwen_asr.write_checkpoint(tmp_path, golden["config"], golden["shapes"])
    aligner = Qwen3ForcedAligner.from_pretrained(tmp_path, device="cpu", dtype="fp32")
    assert len({item[1] for items in golden["items"] for item in items}) > 5, "times too dull to prove anything"
    audio = [(clip(seconds, seed), SAMPLE_RATE) for seed, (seconds, *_) in enumerate(tiny_qwen_asr.ALIGNED)]
    texts, languages = ([one[place] for one in tiny_qwen_asr.ALIGNED] for place in (1, 2))
    results = aligner.align(audio, texts, languages)
    found = [[[item.text, item.start_time, item.end_time] for item in result] for result in results]
    assert found == golden["items"]


def test_words_of_a_transcript_are_written_as_its_text_writes_them(aligner: Qwen3ForcedAligner) -> None:
    (alignment,) = aligner.align_words([clip(1.0)], ["It's 3.14, 你好!"], ["Chinese"])
    assert alignment.words is not None
    assert [word.text for word in alignment.words] == ["It's", "3.14", "你", "好"]
    assert all(0 <= word.confidence <= 1 for word in alignment.words)


def test_a_text_without_words_has_none(aligner: Qwen3ForcedAligner) -> None:
    assert [len(result) for result in aligner.align((clip(1.0), SAMPLE_RATE), "...", "English")] == [0]


def test_what_cannot_be_aligned_is_refused(aligner: Qwen3ForcedAligner) -> None:
    audio = (clip(1.0), SAMPLE_RATE)
    with pytest.raises(ConfigError, match="audio=1, text=2, language=1"):
        aligner.align(audio, ["a", "b"], "English")
    with pytest.raises(ConfigError, match="'Klingon' is unknown"):
        aligner.align(audio, "a", "Klingon")
    long = np.zeros(301 * SAMPLE_RATE, np.float32)
    with pytest.raises(AudioTooLongError, match=r"301\.0 s of audio; the forced aligner takes up to 300 s"):
        aligner.align((long, SAMPLE_RATE), "a", "English")
    (alignment,) = aligner.align_words([long], ["a"], ["English"])
    assert (alignment.words, alignment.reason) == (None, "301.0 s of audio; the forced aligner takes up to 300 s")


def test_a_text_too_dense_for_the_model_fails_alone(checkpoint: tuple[Path, Any], tmp_path: Path) -> None:
    """One second is 13 positions, its marks are 2; each word here is one, and has two marks."""
    engine_dir = Path(shutil.copytree(ensure_converted(checkpoint[0], progress=False), tmp_path / "engine"))
    manifest = EngineManifest.read(engine_dir)
    few = manifest.llm.model_copy(update={"max_position_embeddings": 15 + 3 * 20})
    manifest.model_copy(update={"llm": few}).write(engine_dir)
    aligner = Qwen3ForcedAligner(engine_dir, EngineConfig(device="cpu", dtype="fp32"))
    reason = "1.0 s of audio with 25 words; of speech so dense the forced aligner takes up to 0.8 s with 20 words"
    texts = ["a " * 20, "a " * 25, "a b"]
    fits, dense, short = aligner.align_words([clip(1.0)] * 3, texts, ["English"] * 3)
    assert (dense.words, dense.reason) == (None, reason)
    assert [len(one.words or ()) for one in (fits, short)] == [20, 2]
    with pytest.raises(PromptTooLongError, match=reason):
        aligner.align([(clip(1.0), SAMPLE_RATE)] * 2, ["a b", "a " * 25], "English")


def test_the_conversion_verifies_and_is_no_recogniser(checkpoint: tuple[Path, Any]) -> None:
    directory = checkpoint[0]
    assert verify_conversion(directory, ensure_converted(directory, progress=False)).num_tensors > 60
    with pytest.raises(CheckpointError, match="give it as forced_aligner="):
        AutoModelVLLM(directory, backend="torch")


def test_it_times_the_words_of_any_model(
    checkpoint: tuple[Path, Any], engine_dirs: dict[str, Path], clips: list[dict[str, Any]]
) -> None:
    """In place of the model's own CTC head, whatever the language is called."""
    source, language = clips[0]["source"], clips[0]["language"]
    with AutoModelVLLM(
        engine_dirs["low_frame_rate"], backend="torch", dtype="fp32", forced_aligner=checkpoint[0]
    ) as model:
        (result,) = model.generate(source, language=language)
        (without,) = model.generate(source, language=language, timestamps=False)
    assert (result.text, without.words) == (clips[0]["text"], None)
    assert result.words
    assert all((1000 * word.start) % 80 == pytest.approx(0) for word in result.words), "its classes are 80 ms"
    assert all(word.text in result.text for word in result.words)
