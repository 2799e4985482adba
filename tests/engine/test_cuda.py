"""What runs only on an NVIDIA GPU: compiled layers, CUDA graphs, engines in processes of their own, bfloat16."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile

from tests.engine.words.test_aligner import byte_tokenizer, spoken_evenly, transparent_head
from tests.pipeline import Clip
from tests.processes import is_running, wait_until
from twostage_asr.encoders.adaptor import AdaptorConfig
from twostage_asr.encoders.ctc import CTCConfig, CTCHead
from twostage_asr.encoders.fbank import graph_fbank, log_mel_fbank, stack_frames
from twostage_asr.encoders.sensevoice import SenseVoiceConfig, SenseVoiceEncoder
from twostage_asr.encoders.transformer import LayerStack, PaddedKeys, attend, attention_bias, key_mask, valid_frames
from twostage_asr.engine import AutoModelVLLM, DecodeError
from twostage_asr.engine.acoustic import runner
from twostage_asr.engine.acoustic.base import StageOneOptions
from twostage_asr.engine.acoustic.cuda_graphs import MAX_CLIPS, MAX_FRAMES, Encode, SmallBatchGraphs, bucket_of
from twostage_asr.engine.acoustic.runner import StageOneRunner
from twostage_asr.engine.acoustic.threads import one_thread
from twostage_asr.engine.captures import CAPTURES, capturing
from twostage_asr.engine.families import family_named
from twostage_asr.engine.manifest import EngineManifest, FrameClock
from twostage_asr.engine.words import aligner
from twostage_asr.engine.words.aligner import WordAligner
from twostage_asr.engine.words.viterbi import batched_paths, kernel_paths

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
needs_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two NVIDIA GPUs here")


def test_buckets_hold_what_they_are_for() -> None:
    for num_clips in range(1, MAX_CLIPS + 1):
        for num_frames in (1, 63, 64, 65, 167, MAX_FRAMES):
            clips, frames = bucket_of(num_clips, num_frames)
            assert num_clips <= clips < 2 * num_clips
            assert num_frames <= frames < num_frames + 64
            assert frames <= MAX_FRAMES


def test_on_a_gpu_the_first_text_waits_for_nothing_that_is_compiled_and_later_ones_find_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch that is too large for a graph comes first, then a single clip. Of the GPU there is only the name here."""
    seen: list[object] = []
    stack = LayerStack(nn.Identity)

    class Recorded(StageOneRunner):
        def num_frames(self, num_samples: int) -> int:
            return 1

        num_audio_tokens = num_frames

        def _compile(self) -> None:
            stack._run_layer = lambda _, x: seen.append("compiled layer") or x  # type: ignore[func-returns-value]

        def _inputs(self, waveforms: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
            seen.append(len(waveforms))
            return torch.zeros(len(waveforms), 1, 1), torch.ones(len(waveforms), dtype=torch.int64)

        def _run_modules(self, features: torch.Tensor, lens: torch.Tensor, /) -> tuple[torch.Tensor, ...]:
            seen.append("layers")
            return (stack.run_layers([nn.Identity()], features),)

    def graphs(encode: Encode, *, otherwise: Encode, **sizes: int) -> Encode:
        seen.append(sizes)
        return encode

    monkeypatch.setattr(runner, "uploader", lambda device: None)
    monkeypatch.setattr(runner, "SmallBatchGraphs", graphs)
    model = Recorded(
        StageOneOptions(device=torch.device("cuda"), dtype=torch.float32, embeds_dtype=torch.float32),
        max_clips=3,
        frame_step=1,
    )
    clip = np.zeros(1, np.float32)
    model.encode([clip], with_ctc=False)
    assert seen == [1, "layers"]
    seen.clear()
    model.prepare()
    sizes = {"max_clips": 3, "max_frames": MAX_FRAMES, "frame_step": 1}
    assert seen == [sizes, 4, "layers", "compiled layer", 1, "layers", "compiled layer"]
    seen.clear()
    model.encode([clip], with_ctc=False)
    model._graphs = None  # as in another thread while `prepare` compiles
    model.encode([clip], with_ctc=False)
    assert seen == [1, "layers", "compiled layer", 1, "layers"]


@needs_cuda
def test_graphs_say_what_the_function_says() -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 8, device="cuda")

    def encode(features: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mask = torch.arange(features.shape[1], device="cuda") < lens[:, None]
        return ((features @ weight) * mask[..., None]).cumsum(1), features.relu()

    graphs = SmallBatchGraphs(encode)
    for num_clips, num_frames in ((1, 5), (3, 70), (32, 512), (33, 20), (1, 600), (1, 5)):
        features = torch.randn(num_clips, num_frames, 8, device="cuda")
        lens = torch.randint(1, num_frames + 1, (num_clips,), device="cuda")
        for ours, plain in zip(graphs(features, lens), encode(features, lens), strict=True):
            torch.testing.assert_close(ours[:, :num_frames], plain)


def test_a_capture_that_fails_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    tried: list[tuple[int, int]] = []

    def capture(like: torch.Tensor, bucket: tuple[int, int]) -> None:
        tried.append(bucket)
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = SmallBatchGraphs(lambda features, lens: (features + 1,))
    monkeypatch.setattr(graphs, "_capture", capture)
    for num_clips in (1, 1, 4):
        (out,) = graphs(torch.zeros(num_clips, 5, 8), torch.full((num_clips,), 5))
        assert out.shape == (num_clips, 5, 8) and bool((out == 1).all())
    assert tried == [(1, 64)]
    assert "go on without CUDA graphs" in caplog.text and CAPTURES.acquire(blocking=False)
    CAPTURES.release()


def dithered_silence() -> Callable[[], torch.Tensor]:
    """Features of silence and of new noise in each call, from a graph that the first call captures."""
    graphs = SmallBatchGraphs(
        lambda waveforms, lens: graph_fbank(waveforms, lens, dither=1.0),
        max_frames=MAX_FRAMES * 960,
        frame_step=64 * 960,
    )
    silence, lens = torch.zeros(1, 61_440, device="cuda"), torch.tensor([61_440]).pin_memory()

    def features() -> torch.Tensor:
        found, _ = graphs(silence, lens)
        assert len(graphs._captured) == 1
        return found

    return features


def assert_two_draws(draw: Callable[[], torch.Tensor], shape: tuple[int, ...]) -> None:
    first, second = draw(), draw()
    assert first.shape == second.shape == shape
    assert bool(first.isfinite().all()) and (first - second).abs().mean() > 0.1


@needs_cuda
def test_after_a_capture_that_fails_all_is_as_before_and_results_are_right() -> None:
    def encode(features: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        noise = torch.randn_like(features) * 0
        return (features + noise + float(features.sum().item() * 0 + 1),)  # it waits for the GPU: the capture fails

    earlier = dithered_silence()
    shape = tuple(earlier().shape)
    graphs, stream = SmallBatchGraphs(encode), torch.cuda.current_stream()
    features = torch.randn(1, 5, 8, device="cuda")
    for _ in range(2):
        (out,) = graphs(features, torch.tensor([5], device="cuda"))
        torch.testing.assert_close(out, features + 1)
        assert torch.cuda.current_stream() == stream
    assert not graphs._has_graphs
    noise = torch.randn(10_000, device="cuda")
    assert abs(noise.mean().item()) < 0.1 and abs(noise.std().item() - 1) < 0.1
    assert_two_draws(lambda: torch.randn(3, 4, 1000, device="cuda"), (3, 4, 1000))
    assert_two_draws(
        lambda: log_mel_fbank(torch.zeros(1, 61_440, device="cuda"), torch.tensor([61_440]), dither=1.0)[0], shape
    )
    assert_two_draws(earlier, shape)
    assert_two_draws(dithered_silence(), shape)
    torch.cuda.empty_cache()  # which does nothing while PyTorch believes that a capture is under way
    reserved = torch.cuda.memory_reserved()
    torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= reserved


@needs_cuda
def test_another_thread_draws_random_numbers_during_a_capture_that_draws_none() -> None:
    drawn: list[torch.Tensor] = []
    graph, out = torch.cuda.CUDAGraph(), torch.zeros(1, device="cuda")
    with capturing(graph, pool=torch.cuda.graph_pool_handle(), draws=False):
        out += 1
        thread = threading.Thread(target=lambda: drawn.append(torch.randn(1000, device="cuda")))
        thread.start()
        thread.join()
    graph.replay()
    assert out.item() == 1
    assert len(drawn) == 1 and bool(drawn[0].isfinite().all()) and drawn[0].std() > 0.5


@needs_cuda
def test_a_capture_bears_the_work_of_another_thread_on_the_gpu() -> None:
    """A server's threads time words and copy results while a new shape is captured."""
    failures: list[BaseException] = []

    def allocate() -> None:
        try:
            torch.empty(3 << 30, dtype=torch.uint8, device="cuda")  # more than PyTorch has kept: cudaMalloc
        except RuntimeError as error:
            failures.append(error)

    def encode(features: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if torch.cuda.is_current_stream_capturing():
            thread = threading.Thread(target=allocate)
            thread.start()
            thread.join()
        return (features + 1,)

    features = torch.randn(1, 5, 8, device="cuda")
    (out,) = SmallBatchGraphs(encode)(features, torch.tensor([5], device="cuda"))
    assert not failures
    torch.testing.assert_close(out[:, :5], features + 1)


@needs_cuda
@pytest.mark.parametrize("precision", ["ieee", "tf32"])  # which the program around us has chosen
def test_features_in_a_graph_are_those_of_an_fft(precision: str) -> None:
    graphs = SmallBatchGraphs(
        lambda waveforms, lens: stack_frames(*graph_fbank(waveforms, lens)),
        otherwise=lambda waveforms, lens: stack_frames(*log_mel_fbank(waveforms, lens)),
        max_frames=MAX_FRAMES * 960,
        frame_step=64 * 960,
    )
    generator, matmul = torch.Generator().manual_seed(0), torch.backends.cuda.matmul
    before = matmul.fp32_precision
    for num_clips, num_samples in ((1, 75_200), (3, 16_000), (32, 480_000), (1, 400), (33, 16_000), (1, 75_200)):
        tone = 0.3 * torch.sin(torch.arange(num_samples) * 0.17)  # beside which rounding to TF32 would be heard
        waveforms = (torch.randn(num_clips, num_samples, generator=generator) * 1e-3 + tone).cuda()
        lens = torch.randint(400, num_samples + 1, (num_clips,), generator=generator)
        lens[0] = num_samples
        matmul.fp32_precision = precision
        try:
            features, frame_lens = graphs(waveforms, lens.pin_memory())
        finally:
            matmul.fp32_precision = before
        torch.backends.cuda.cufft_plan_cache.clear()
        expected, expected_lens = stack_frames(*log_mel_fbank(waveforms, lens))
        assert torch.equal(frame_lens.cpu(), expected_lens.cpu())
        assert (features[:, : expected.shape[1]] - expected).abs().mean() < 1e-3
        assert not features[:, expected.shape[1] :].any()


@needs_cuda
def test_the_dither_of_a_graph_is_new_in_each_replay() -> None:
    features = dithered_silence()
    first, second = features(), features()
    plain, _ = log_mel_fbank(torch.zeros(1, 61_440, device="cuda"), torch.tensor([61_440]), dither=1.0)
    assert (first - second).abs().mean() > 0.1
    torch.testing.assert_close(first.mean(), plain.mean(), atol=0.1, rtol=0)


@needs_cuda
def test_a_clip_is_encoded_from_its_samples_on_in_one_launch_without_a_wait(engine_dirs: dict[str, Path]) -> None:
    directory = engine_dirs["low_frame_rate"]
    manifest = EngineManifest.read(directory)
    options = StageOneOptions(device=torch.device("cuda"), dtype=torch.float32, embeds_dtype=torch.float32)
    model, _ = family_named(manifest.family).build_acoustic_model(directory, manifest, options)
    rng = np.random.default_rng(0)
    clips = [(rng.standard_normal(n) * 0.05).astype(np.float32) for n in (75_200, 30_000, 399, 160_000)]
    plain = [model.encode([clip], with_ctc=True).utterances()[0] for clip in clips]
    model.prepare()
    with one_thread(active=True):
        for batch in ([0], [1], [2], [3], [0, 1, 3], [0, 1, 2, 3], [1]):
            for _ in range(2):  # captured, and replayed
                encoded = model.encode([clips[number] for number in batch], with_ctc=True).utterances()
                for ours, number in zip(encoded, batch, strict=True):
                    assert F.cosine_similarity(ours.audio_embeds, plain[number].audio_embeds).min() > 0.9999
        torch.cuda.set_sync_debug_mode("error")
        try:
            model.encode(clips[:1], with_ctc=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
            model.encode(clips[:1], with_ctc=True)
    calls = {event.key: event.count for event in trace.key_averages()}
    assert calls.get("cudaGraphLaunch") == 1
    assert calls.get("cudaLaunchKernel", 0) <= 4  # copies of the input and of the results


@needs_cuda
def test_the_alignment_kernel_finds_the_paths_that_torch_finds() -> None:
    torch.manual_seed(0)
    for num_clips, num_frames, num_targets in ((1, 1, 0), (3, 40, 7), (64, 500, 90), (2, 3000, 900)):
        emissions = torch.randn(num_clips, num_frames, 50, device="cuda").mul(3).log_softmax(-1)
        targets = torch.randint(1, 50, (num_clips, num_targets), device="cuda")
        frame_lens = torch.randint((num_frames + 1) // 2, num_frames + 1, (num_clips,))
        target_lens = torch.randint((num_targets + 1) // 2, num_targets + 1, (num_clips,)).minimum(frame_lens // 2)
        clips = emissions, targets, frame_lens, target_lens
        assert torch.equal(kernel_paths(*clips), batched_paths(*clips))


@needs_cuda
def test_word_times_and_what_is_heard_are_those_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aligner, "_MAX_CELLS", 2000)  # several batches
    tokenizer = byte_tokenizer()
    texts = ["set the set", "", "你好 the set, the 世", "set", *["the set " * n for n in range(1, 9)]]
    hidden = [spoken_evenly(tokenizer, text) for text in texts]
    durations = [len(clip) * 0.06 for clip in hidden]
    on_cpu = WordAligner(tokenizer, transparent_head(), FrameClock()).align(hidden, texts, durations)
    on_gpu = WordAligner(tokenizer, transparent_head().cuda(), FrameClock())
    for ours, plain in zip(on_gpu.align([clip.cuda() for clip in hidden], texts, durations), on_cpu, strict=True):
        assert (ours.reason, ours.ctc_text, ours.rest_start) == (plain.reason, plain.ctc_text, plain.rest_start)
        for word, expected in zip(ours.words or (), plain.words or (), strict=True):
            assert (word.text, word.start, word.end) == (expected.text, expected.start, expected.end)
            assert word.confidence == pytest.approx(expected.confidence, abs=1e-4)


@needs_cuda
@pytest.mark.parametrize(("num_clips", "num_frames"), [(1, 1), (1, 167), (5, 501), (64, 300)])
def test_emissions_are_those_of_whole_logits(num_clips: int, num_frames: int) -> None:
    torch.manual_seed(0)
    decoder = AdaptorConfig(encoder_dim=64, llm_dim=512, ffn_dim=64, n_layer=1)
    head = CTCHead(CTCConfig(decoder=decoder, vocab_size=60_515, blank_id=60_514)).to("cuda", torch.bfloat16)
    hidden = torch.randn(num_clips, num_frames, 512, device="cuda", dtype=torch.bfloat16)
    columns = torch.randint(0, 60_515, (num_clips, 20))
    lens = torch.linspace(num_frames, 1, num_clips).long()
    with torch.inference_mode():
        scores = head.scores([clip[:length] for clip, length in zip(hidden, lens.tolist(), strict=True)], columns)
        all_tokens = head.log_probs(hidden[:2])
    assert scores.emissions.shape == (num_clips, num_frames, 20)
    expected = all_tokens.gather(2, columns[:2].cuda()[:, None, :].expand(-1, num_frames, -1))
    for clip, length in enumerate(lens[:2].tolist()):
        # Where two tokens are almost equally likely, another order of the sum may choose the other.
        same = scores.best[clip, :length] == all_tokens[clip, :length].argmax(-1)
        assert same.float().mean() > 0.99
        torch.testing.assert_close(scores.emissions[clip, :length], expected[clip, :length], atol=2e-3, rtol=0)


@needs_cuda
def test_attention_looks_at_each_clips_own_keys_alone() -> None:
    lens = torch.tensor([1, 37, 300], device="cuda")
    parts = [torch.randn(3, 300, 512, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    masked = attend(*parts, num_heads=4, mask=attention_bias(valid_frames(lens, 300, lens.device), torch.bfloat16))
    with torch.inference_mode():
        mask = key_mask(lens, 300, parts[0])
    assert isinstance(mask, PaddedKeys)
    torch.testing.assert_close(attend(*parts, num_heads=4, mask=mask), masked, atol=0.02, rtol=0.02)


@needs_cuda
@pytest.mark.parametrize("kernel_size", [11, 513])
@torch.inference_mode()
def test_kernels_say_what_tensor_operations_say(kernel_size: int) -> None:
    torch.manual_seed(0)
    config = SenseVoiceConfig(
        output_dim=128, attention_heads=4, linear_units=256, num_blocks=3, tp_blocks=2, kernel_size=kernel_size
    )
    encoder = SenseVoiceEncoder(config).eval()
    features, lens = torch.randn(3, 70, 560) + 9, torch.tensor([70, 1, 33])
    expected = encoder(features, lens)
    encoder.cuda()
    eager = encoder(features.cuda(), lens.cuda())
    encoder.compile()
    counters["graph_break"].clear()
    for out in (eager, encoder(features.cuda(), lens.cuda())):
        for ours, own, length in zip(out.cpu(), expected, lens.tolist(), strict=True):
            torch.testing.assert_close(ours[:length], own[:length], atol=2e-3, rtol=0)
    assert not counters["graph_break"]  # each would cost a layer launches and copies


@needs_cuda
def test_bfloat16_embeddings_point_where_float32_ones_do(engine_dirs: dict[str, Path]) -> None:
    directory = engine_dirs["low_frame_rate"]
    manifest = EngineManifest.read(directory)
    family = family_named(manifest.family)
    rng = np.random.default_rng(0)
    waveforms = [(rng.standard_normal(n) * 0.05).astype(np.float32) for n in (16_000, 48_000, 30_000, 160_000)]
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        options = StageOneOptions(device=torch.device("cuda"), dtype=dtype, embeds_dtype=torch.float32)
        model, _ = family.build_acoustic_model(directory, manifest, options)
        model.prepare()
        batched = model.encode(waveforms, with_ctc=False).utterances()
        alone = [model.encode([waveform], with_ctc=False).utterances()[0] for waveform in waveforms]
        for a, b in zip(batched, alone, strict=True):
            assert F.cosine_similarity(a.audio_embeds, b.audio_embeds).min() > (
                0.9999 if dtype == torch.float32 else 0.99
            )
        rows.append(torch.cat([utterance.audio_embeds for utterance in batched]))
    assert F.cosine_similarity(*rows).min() > 0.99


@needs_cuda
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_test_clips_are_understood(engine_dirs: dict[str, Path], clips: list[Clip], dtype: str) -> None:
    with AutoModelVLLM(engine_dirs["low_frame_rate"], dtype=dtype, encoder_dtype=dtype) as model:
        results = model.generate(str(Path(clips[0]["source"]).parent / "manifest.jsonl"))
    assert [(r.key, r.text) for r in results] == [(c["key"], c["text"]) for c in clips]


@needs_two_gpus
def test_two_gpus_write_what_one_does_and_the_loss_of_one_is_an_error(
    engine_dirs: dict[str, Path], clips: list[Clip]
) -> None:
    manifest = str(Path(clips[0]["source"]).parent / "manifest.jsonl")
    with AutoModelVLLM(engine_dirs["low_frame_rate"], dtype="fp32", tensor_parallel_size=2) as model:
        assert [(r.key, r.text) for r in model.generate(manifest)] == [(c["key"], c["text"]) for c in clips]
        decoder: Any = model.transcriber.decoder
        engine = decoder._engines[0].child.process.pid
        children = Path(f"/proc/{engine}/task/{engine}/children").read_text().split()
        workers = [int(pid) for pid in children if "Worker_TP" in Path(f"/proc/{pid}/comm").read_text()]
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises(DecodeError, match=rf"process {workers[1]}\) has ended, exit status -9"):
            while time.monotonic() < started + 60:
                model.generate(manifest)
    wait_until(lambda: not any(is_running(pid) for pid in (engine, *workers)))
