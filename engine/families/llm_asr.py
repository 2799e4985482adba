"""LLMASR: Whisper's encoder, an adaptor, and a Qwen or Vicuna, as FunASR's recipes train them."""

from pathlib import Path

from ...encoders.llm_asr import LLMASRTower, LLMASRTowerConfig
from ..acoustic.runner import load_module
from ..acoustic.tower import TowerModel
from ..errors import CheckpointError
from ..manifest import ACOUSTIC_NAME, EngineManifest
from ..prompt import PromptText
from ..words.aligner import WordAligner
from .base import Answer, Request, StageOneOptions

INSTRUCTION = "Transcribe speech to text."


class LLMASR:
    """The family of checkpoints whose config.yaml names the class LLMASR."""

    name = "llm_asr"
    languages: tuple[str, ...] = ()
    best_length_s = 30.0  # longer audio is heard in windows of so much, which FunASR cuts off

    def build_acoustic_model(
        self, engine_dir: Path, manifest: EngineManifest, options: StageOneOptions
    ) -> tuple[TowerModel, WordAligner | None]:
        try:
            config = LLMASRTowerConfig(**manifest.acoustic)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{engine_dir}: engine.json describes no encoder of LLMASR: {error}") from error
        return TowerModel(load_module(engine_dir / ACOUSTIC_NAME, lambda: LLMASRTower(config), options), options), None

    def prompt_text(self, request: Request) -> PromptText:
        """What FunASR's `inference` builds: the audio comes last."""
        request.refuse("LLMASR", "language", "hotwords", "itn", "context")
        prefix = f"USER: \nINSTRUCTION: {INSTRUCTION}\nINPUT: "
        return PromptText(prefix=prefix, suffix="", begins_text=True)

    def parse_answer(self, answer: str, request: Request) -> Answer:
        """The whole of it: FunASR keeps what follows the last ": ", and so loses speech that has one."""
        return Answer(answer.strip(), None)
