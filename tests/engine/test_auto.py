"""The whole engine on real vLLM: right words, input order, honest errors, nothing that depends on the neighbours."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch

from tests.hostile import hostile_inputs
from tests.paths import CHECKPOINTS, CONVERSIONS
from twostage_asr.engine import AutoModelVLLM, CheckpointError, ConfigError, FunASRNanoVLLM, Transcript, auto
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.loading import load
from twostage_asr.engine.config import EngineConfig
from twostage_asr.engine.decoder import backlog
from twostage_asr.engine.decoder.torch_decoder import TorchDecoder
from twostage_asr.engine.decoder.two_lanes import TwoLaneDecoder
from twostage_asr.engine.words.pauses import edges_at_sound


def transcribe(model: AutoModelVLLM, clips: list[dict[str, Any]], tmp_path: Path, **options: Any) -> list[Transcript]:
    """Every clip with its own language, hotwords and itn."""
    path = tmp_path / "clips.jsonl"
    path.write_text("".join(json.dumps(clip) + "\n" for clip in clips), encoding="utf-8")
    return model.generate(path, **options)


def test_the_test_clips_are_understood(vllm_model: AutoModelVLLM, clips: list[dict[str, Any]], tmp_path: Path) -> None:
    results = transcribe(vllm_model, clips, tmp_path)
    assert [(r.key, r.text) for r in results] == [(c["key"], c["text"]) for c in clips]
    assert all(r.status == "ok" and r.finish_reason == "stop" and not r.warnings for r in results)


def test_backends_agree_on_everything(
    vllm_model: AutoModelVLLM, torch_models: dict[str, AutoModelVLLM], clips: list[dict[str, Any]], tmp_path: Path
) -> None:
    ours = transcribe(vllm_model, clips, tmp_path)
    theirs = transcribe(torch_models["low_frame_rate"], clips, tmp_path)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.key, a.text, a.duration) == (b.key, b.text, b.duration)
        assert a.confidence == pytest.approx(b.confidence, abs=1e-4)
        # What has been read first makes up a batch, so that sums may be ordered in another way.
        for ours_word, their_word in zip(a.words or (), b.words or (), strict=True):
            assert ours_word.text == their_word.text
            times = ours_word.start, ours_word.end, ours_word.confidence
            assert times == pytest.approx((their_word.start, their_word.end, their_word.confidence), abs=2e-3)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_changes_nothing(
    vllm_model: AutoModelVLLM, clips: list[dict[str, Any]], tmp_path: Path, batch_size: int
) -> None:
    whole = transcribe(vllm_model, clips, tmp_path)
    for a, b in zip(transcribe(vllm_model, clips, tmp_path, batch_size=batch_size), whole, strict=True):
        assert (a.key, a.text) == (b.key, b.text)
        assert a.confidence == pytest.approx(b.confidence, abs=1e-4)
        assert [w.text for w in a.words or ()] == [w.text for w in b.words or ()]
        for one, other in zip(a.words or (), b.words or (), strict=True):  # sums are ordered in another way
            times = other.start, other.end, other.confidence
            assert (one.start, one.end, one.confidence) == pytest.approx(times, abs=2e-3)


def test_words_are_ordered_inside_the_clip_and_rebuild_the_text(
    vllm_model: AutoModelVLLM, clips: list[dict[str, Any]], tmp_path: Path
) -> None:
    for result in transcribe(vllm_model, clips, tmp_path):
        assert result.words is not None
        times = [t for word in result.words for t in (word.start, word.end)]
        assert times == sorted(times)
        assert all(0 <= t <= result.duration for t in times)
        assert all(0 <= word.confidence <= 1 for word in result.words)
        position = 0
        for word in result.words:
            position = result.text.index(word.text, position) + len(word.text)


def test_no_word_reaches_into_a_pause(vllm_model: AutoModelVLLM, clips: list[dict[str, Any]]) -> None:
    sources = [clip["source"] for clip in clips]
    for source, result in zip(sources, vllm_model.generate(sources), strict=True):
        assert result.words == edges_at_sound(result.words or (), load(expand_inputs(source)[0]))


def test_timestamps_false_leaves_words_out(vllm_model: AutoModelVLLM, clips: list[dict[str, Any]]) -> None:
    (result,) = vllm_model.generate(clips[0]["source"], timestamps=False)
    assert (result.words, result.warnings) == (None, ())


def test_hotwords_bias_the_spelling(vllm_model: AutoModelVLLM, clips: list[dict[str, Any]], tmp_path: Path) -> None:
    biased = [clip for clip in clips if clip["hotwords"]]
    assert biased
    plain = transcribe(vllm_model, [clip | {"hotwords": []} for clip in biased], tmp_path)
    with_words = transcribe(vllm_model, biased, tmp_path)
    assert [r.text for r in with_words] == [clip["text"] for clip in biased]
    assert [r.text for r in plain] != [clip["text"] for clip in biased]


@pytest.mark.parametrize("language", ["English", "en-US"])
def test_language_names_and_tags_mean_the_same(
    vllm_model: AutoModelVLLM, clips: list[dict[str, Any]], language: str
) -> None:
    sources = [clip["source"] for clip in clips[:3]]
    named = vllm_model.generate(sources, language="英文")
    assert [r.text for r in vllm_model.generate(sources, language=language)] == [r.text for r in named]


def test_auto_is_no_language(vllm_model: AutoModelVLLM, clips: list[dict[str, Any]]) -> None:
    sources = [clip["source"] for clip in clips[:3]]
    auto, none = vllm_model.generate(sources, language="auto"), vllm_model.generate(sources)
    assert [replace(r, language=None) for r in auto] == none


def test_an_unknown_language_is_refused_before_any_work(vllm_model: AutoModelVLLM) -> None:
    with pytest.raises(ConfigError, match=r"language 'Klingon' is unknown; allowed: .*中文 \(zh\)"):
        vllm_model.generate(["nowhere.wav"], language="Klingon")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hotwords": "张三"}, "hotwords must be a list or None; got '张三'"),
        ({"hotwords": ["a", ""]}, "non-empty string, got ''"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"langauge": "zh"}, "did you mean 'language'"),
    ],
)
def test_wrong_arguments_are_refused(vllm_model: AutoModelVLLM, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        vllm_model.generate([], **options)


def test_an_unknown_language_of_one_line_is_one_error(
    vllm_model: AutoModelVLLM, clips: list[dict[str, Any]], tmp_path: Path
) -> None:
    bad, good = transcribe(vllm_model, [clips[0] | {"language": "Klingon", "key": "bad"}, clips[0]], tmp_path)
    assert (bad.status, good.status) == ("error", "ok")
    assert "'Klingon' is unknown" in (bad.error or "")


def test_nothing_in_gives_nothing_out(vllm_model: AutoModelVLLM) -> None:
    assert vllm_model.generate([]) == []


def test_hostile_inputs_give_one_error_each_and_disturb_nobody(
    vllm_model: AutoModelVLLM, clips: list[dict[str, Any]], tmp_path: Path
) -> None:
    cases = hostile_inputs(tmp_path)
    good = clips[0]["source"]
    (expected,) = vllm_model.generate(good)
    inputs = [source for case in cases for source in (case.source, good)]
    results = vllm_model.generate(inputs)
    assert len(cases) >= 30
    assert len(results) == 2 * len(cases)
    for case, bad, fine in zip(cases, results[::2], results[1::2], strict=True):
        assert bad.status == "error", case.name
        assert bad.error, case.name
        assert bad.error_code in ("unsupported_audio", "audio_too_long"), case.name
        assert (bad.text, bad.words) == ("", None), case.name
        assert (fine.status, fine.text, fine.words) == ("ok", expected.text, expected.words), case.name


def test_inputs_of_every_kind_give_the_same_text(
    vllm_model: AutoModelVLLM, clips: list[dict[str, Any]], tmp_path: Path
) -> None:
    source = Path(clips[0]["source"])
    samples, rate = sf.read(source, dtype="float32")
    scp = tmp_path / "wav.scp"
    scp.write_text(f"from-scp {source}\n")
    row = {"path": "row", "array": samples, "sampling_rate": rate}
    kinds: list[Any] = [
        source,
        str(source),
        source.read_bytes(),
        row,
        source.open("rb"),
        ("array", samples, rate),
        str(scp),
    ]
    results = [vllm_model.generate([kind])[0] for kind in kinds]
    assert {r.text for r in results} == {results[0].text}
    assert results[0].text
    assert [r.key for r in results[-2:]] == ["array", "from-scp"]


def test_long_audio_is_transcribed_with_a_warning(vllm_model: AutoModelVLLM) -> None:
    (result,) = vllm_model.generate([("long", np.zeros(31 * 16_000, np.float32), 16_000)], vad=None)
    assert result.status == "ok"
    assert [w.code for w in result.warnings] == ["long_audio"]
    assert "31.0 s of audio; the model hears up to 30 s" in result.warnings[0].message


def test_audio_beyond_the_model_length_is_one_error(vllm_model: AutoModelVLLM) -> None:
    (result,) = vllm_model.generate([("hour", np.zeros(3600 * 16_000, np.float32), 16_000)], vad=None)
    assert result.status == "error"
    assert "the model length is 4096" in (result.error or "")


def test_too_many_hotwords_are_one_clear_error(vllm_model: AutoModelVLLM, clips: list[dict[str, Any]]) -> None:
    (result,) = vllm_model.generate(clips[0]["source"], hotwords=[f"word{i}" * 300 for i in range(20)])
    assert (result.status, result.error_code) == ("error", "prompt_too_long")
    assert "fewer or shorter hotwords" in (result.error or "")


def test_an_unfinished_answer_says_so(vllm_model: AutoModelVLLM, clips: list[dict[str, Any]]) -> None:
    (result,) = vllm_model.generate(clips[0]["source"], max_new_tokens=2)
    assert result.finish_reason == "length"
    assert "unfinished" in {w.code for w in result.warnings}


def test_silence_gives_empty_text_and_no_words(vllm_model: AutoModelVLLM) -> None:
    (result,) = vllm_model.generate([("silence", np.zeros(48_000, np.float32), 16_000)])
    assert (result.text, result.words, result.segments, result.status) == ("", (), (), "ok")


def test_a_closed_model_says_so(engine_dirs: dict[str, Path]) -> None:
    model = FunASRNanoVLLM.from_pretrained(engine_dirs["full_rate"], backend="torch")
    model.close()
    model.close()
    with pytest.raises(ConfigError, match="this model is closed"):
        model.generate([])


def test_without_ctc_tensors_the_text_is_the_same_and_a_warning_says_why_there_are_no_times(
    torch_models: dict[str, AutoModelVLLM], clips: list[dict[str, Any]], tmp_path: Path
) -> None:
    directory = tmp_path / "without-ctc"
    shutil.copytree(CHECKPOINTS["full_rate"], directory, ignore=CONVERSIONS)
    weights = torch.load(directory / "model.pt", weights_only=True)["state_dict"]
    torch.save({k: v for k, v in weights.items() if not k.startswith("ctc")}, directory / "model.pt")
    with AutoModelVLLM(directory, backend="torch", dtype="fp32") as model:
        results = transcribe(model, clips[:4], tmp_path)
    expected = transcribe(torch_models["full_rate"], clips[:4], tmp_path)
    assert [r.text for r in results] == [r.text for r in expected]
    for result in results:
        assert result.words is None
        assert [w.code for w in result.warnings] == ["no_word_times"]
        assert "holds no ctc_decoder" in result.warnings[0].message


def test_on_a_cpu_few_clips_are_written_without_vllm_and_as_vllm_writes_them(
    vllm_model: AutoModelVLLM,
    engine_dirs: dict[str, Path],
    clips: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backlog, "BACKLOG_S", 60.0)  # on a busy machine these clips could take more than 5 s
    sources = [clip["source"] for clip in clips]
    with AutoModelVLLM(engine_dirs["low_frame_rate"]) as model:
        decoder: Any = model.transcriber.decoder
        texts = [result.text for result in model.generate(sources)]
        assert isinstance(decoder, TwoLaneDecoder)
        assert decoder._loading.ident is None and not decoder.large._engines
    assert texts == [result.text for result in vllm_model.generate(sources)]


def test_a_model_that_cannot_be_loaded_ends_its_decoder(
    engine_dirs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = shutil.copytree(engine_dirs["low_frame_rate"], tmp_path / "damaged")
    (damaged / "llm" / "tokenizer.json").write_text("{", encoding="utf-8")
    closed = list[TorchDecoder]()
    monkeypatch.setattr(TorchDecoder, "close", lambda self: closed.append(self))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        AutoModelVLLM(damaged, backend="torch")
    assert len(closed) == 1


def test_vllm_options_are_checked(engine_dirs: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="no such engine argument"):
        AutoModelVLLM(engine_dirs["full_rate"], vllm={"max_num_seq": 4})
    with pytest.raises(ConfigError, match="use the argument dtype"):
        AutoModelVLLM(engine_dirs["full_rate"], vllm={"dtype": "float16"})
    with pytest.raises(ConfigError, match="no meaning with backend='torch'"):
        AutoModelVLLM(engine_dirs["full_rate"], backend="torch", vllm={"max_num_seqs": 4})


def test_a_gpu_is_shared_before_a_forced_aligner_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has used CUDA cannot start MPS any more."""

    @dataclass
    class Loaded:
        forced_aligner: object = None

    steps: list[str] = []
    monkeypatch.setattr(auto, "share_gpu", lambda config: steps.append("share"))
    monkeypatch.setattr(auto.Qwen3ForcedAligner, "from_pretrained", lambda *_, **__: steps.append("aligner") or "times")
    monkeypatch.setattr(auto, "load_transcriber", lambda *_: steps.append("model") or Loaded())
    loaded: Any = auto._load(Path("model"), Path("aligner"), EngineConfig(decoder_processes=4))
    assert steps == ["share", "aligner", "model"]
    assert loaded.forced_aligner == "times"
