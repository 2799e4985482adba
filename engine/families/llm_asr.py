"""LLMASR: Whisper's encoder, an adaptor, and a Qwen or Vicuna LLM, trained with FunASR's recipes."""

from pathlib import Path

from ...encoders.llm_asr import LLMASRTower, LLMASRTowerConfig
from ..acoustic.base import StageOneOptions
from ..acoustic.runner import load_module, read_config
from ..acoustic.tower import TowerModel
from ..manifest import ACOUSTIC_NAME, EngineManifest
from ..prompt import PromptText
from ..words.aligner import WordAligner
from .base import Answer, Request

INSTRUCTION = "Transcribe speech to text."


class LLMASR:
    """The family of checkpoints whose config.yaml names the class LLMASR."""

    name = "llm_asr"
    languages: tuple[str, ...] = ()
    best_length_s = 30.0  # longer audio is encoded in windows of 30 s; FunASR truncates it to 30 s

    def build_acoustic_model(
        self, engine_dir: Path, manifest: EngineManifest, options: StageOneOptions
    ) -> tuple[TowerModel, WordAligner | None]:
        config = read_config(lambda sizes: LLMASRTowerConfig(**sizes), engine_dir, manifest, "encoder of LLMASR")
        tower = load_module(engine_dir / ACOUSTIC_NAME, lambda: LLMASRTower(config), options)
        return TowerModel(tower, options), None

    def prompt_text(self, request: Request) -> PromptText:
        """The prompt that FunASR's `inference` builds; the audio comes last."""
        request.refuse("LLMASR", "language", "hotwords", "itn", "context")
        prefix = f"USER: \nINSTRUCTION: {INSTRUCTION}\nINPUT: "
        return PromptText(prefix=prefix, suffix="", begins_text=True)

    def parse_answer(self, answer: str, request: Request) -> Answer:
        """The whole answer is text. FunASR keeps only the part after the last ": ", and loses text that has one."""
        return Answer(answer.strip(), None)
