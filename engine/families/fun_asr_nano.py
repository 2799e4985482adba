"""Fun-ASR-Nano and Fun-ASR-MLT-Nano: SenseVoice encoder, Transformer adaptor, Qwen3-0.6B, CTC head for word times."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...encoders.fbank import HOP_SAMPLES, LFR_N, WINDOW_SAMPLES, num_lfr_frames
from ...encoders.fun_asr_nano import FunASRNanoAcoustic, FunASRNanoAcousticConfig
from ...encoders.upload import to_device
from ..acoustic.base import StageOneOptions
from ..acoustic.cuda_graphs import FRAME_STEP, MAX_FRAMES
from ..acoustic.runner import Inputs, StageOneRunner, load_module, read_config
from ..manifest import ACOUSTIC_NAME, CTC_VOCABULARY_NAME, EngineManifest
from ..prompt import PromptText
from ..text import clean_text
from ..words.aligner import WordAligner
from ..words.tokenizer import CTCTokenizer
from .base import Answer, Request
from .languages import LANGUAGES, KnownLanguages, is_auto

_NANO_CODES = ("zh", "en", "ja")
_MLT_CODES = (
    *("zh", "en", "yue", "ja", "ko", "vi", "id", "th", "ms", "fil", "ar", "hi", "bg", "hr", "cs", "da", "nl", "et"),
    *("fi", "el", "hu", "ga", "lv", "lt", "mt", "pl", "pt", "ro", "sk", "sl", "sv"),
)
_FRAME_SAMPLES = LFR_N * HOP_SAMPLES
HOTWORD_HEADER = (
    "请结合上下文信息，更加准确地完成语音转写任务。如果没有相关信息，我们会留空。"
    "\n\n\n**上下文信息：**\n\n\n热词列表：[{}]\n"
)


class FunASRNano:
    """The family of FunAudioLLM/Fun-ASR-Nano-2512, which transcribes Cantonese and other dialects as Chinese."""

    name = "fun_asr_nano"
    languages: tuple[str, ...] = _NANO_CODES
    best_length_s = 30.0  # longer audio loses text or repeats it: FunASR issues 3031, 3033, 2786
    _known = KnownLanguages(
        {code: LANGUAGES[code].chinese for code in _NANO_CODES},
        advice=f". Fun-ASR-MLT-Nano knows {len(_MLT_CODES)} languages; a checkpoint is taken for it if the name of its "
        "directory or the title of its README.md says MLT",
    )

    def build_acoustic_model(
        self, engine_dir: Path, manifest: EngineManifest, options: StageOneOptions
    ) -> tuple["FunASRNanoAcousticModel", WordAligner | None]:
        config = read_config(FunASRNanoAcousticConfig.from_dict, engine_dir, manifest, "encoder of Fun-ASR-Nano")
        module = load_module(engine_dir / ACOUSTIC_NAME, lambda: FunASRNanoAcoustic(config), options)
        model = FunASRNanoAcousticModel(module, options)
        if module.ctc_head is None:
            return model, None
        tokenizer = CTCTokenizer.from_file(engine_dir / CTC_VOCABULARY_NAME)
        assert manifest.frame_clock is not None, "the converter writes one beside a CTC head"
        return model, WordAligner(
            tokenizer, module.ctc_head, manifest.frame_clock, num_processes=options.word_processes
        )

    def prompt_text(self, request: Request) -> PromptText:
        request.refuse("Fun-ASR-Nano", "context")
        language = self._known.prompt_name(request.language)
        header = HOTWORD_HEADER.format(", ".join(request.hotwords)) if request.hotwords else ""
        instruction = "语音转写" + (f"成{language}" if language else "") + ("" if request.itn else "，不进行文本规整")
        return PromptText(
            prefix="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            f"<|im_start|>user\n{header}{instruction}：",
            suffix="<|im_end|>\n<|im_start|>assistant\n",
        )

    def parse_answer(self, answer: str, request: Request) -> Answer:
        return Answer(clean_text(answer), None if is_auto(request.language) else request.language)


class FunASRMLTNano(FunASRNano):
    """The family of FunAudioLLM/Fun-ASR-MLT-Nano-2512: the same architecture, trained on 31 languages."""

    name = "fun_asr_mlt_nano"
    languages = _MLT_CODES
    _known = KnownLanguages({code: LANGUAGES[code].chinese for code in _MLT_CODES})


class FunASRNanoAcousticModel(StageOneRunner):
    """Stage 1 of one loaded checkpoint. Its graphs take waveforms, and compute the features too."""

    def __init__(self, module: FunASRNanoAcoustic, options: StageOneOptions) -> None:
        self._module = module
        super().__init__(
            options,
            max_frames=MAX_FRAMES * _FRAME_SAMPLES,
            frame_step=FRAME_STEP * _FRAME_SAMPLES,
            min_samples=WINDOW_SAMPLES,
        )

    def num_frames(self, num_samples: int) -> int:
        return num_lfr_frames(num_samples)

    def num_audio_tokens(self, num_samples: int) -> int:
        return self._module.num_audio_tokens(self.num_frames(num_samples))

    def _compile(self) -> None:
        self._module.audio_encoder.compile()

    def _inputs(self, waveforms: Sequence[np.ndarray]) -> Inputs:
        """The waveforms, and their lengths in samples on the CPU: read from there, they need no wait for the GPU."""
        is_pinned = self._options.device.type == "cuda"  # so that a copy of them is only queued
        return self._upload(waveforms), torch.tensor([len(w) for w in waveforms], pin_memory=is_pinned)

    def _run_modules(self, waveforms: Tensor, sample_lens: Tensor, /) -> tuple[Tensor, ...]:
        features, lens = self._module.features(waveforms, sample_lens, self._options.dither)
        return self._encode(features, to_device(lens, self._options.device))

    def _run_in_graph(self, waveforms: Tensor, sample_lens: Tensor, /) -> tuple[Tensor, ...]:
        return self._encode(*self._module.graph_features(waveforms, sample_lens, self._options.dither))

    def _encode(self, features: Tensor, lens: Tensor) -> tuple[Tensor, ...]:
        encoder_out, audio_embeds = self._module(features, lens)
        head = self._module.ctc_head
        hidden = () if head is None else (head.hidden(encoder_out, lens),)
        return audio_embeds.to(self._options.embeds_dtype), *hidden
