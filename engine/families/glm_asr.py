"""GLM-ASR-Nano: an encoder with 30 s windows, and a Llama."""

from pathlib import Path

from ...encoders.glm_asr import GLMASRTower, GLMASRTowerConfig
from ..acoustic.base import StageOneOptions
from ..acoustic.runner import load_module, read_config
from ..acoustic.tower import TowerModel
from ..manifest import ACOUSTIC_NAME, EngineManifest
from ..prompt import PromptText
from ..words.aligner import WordAligner
from .base import Answer, Request


class GLMASRNano:
    """The family of zai-org/GLM-ASR-Nano-2512."""

    name = "glm_asr"
    languages: tuple[str, ...] = ()
    best_length_s = 30.0  # longer audio is encoded in windows of 30 s, and known to lose text: GLM-ASR issue 39

    def build_acoustic_model(
        self, engine_dir: Path, manifest: EngineManifest, options: StageOneOptions
    ) -> tuple[TowerModel, WordAligner | None]:
        config = read_config(lambda sizes: GLMASRTowerConfig(**sizes), engine_dir, manifest, "encoder of GLM-ASR")
        tower = load_module(engine_dir / ACOUSTIC_NAME, lambda: GLMASRTower(config), options)
        return TowerModel(tower, options), None

    def prompt_text(self, request: Request) -> PromptText:
        """The official prompt; its second user turn is intentional. The model detects the language."""
        request.refuse("GLM-ASR-Nano", "language", "hotwords", "itn", "context")
        return PromptText(
            prefix="<|user|>\n<|begin_of_audio|>",
            suffix="<|end_of_audio|><|user|>\nPlease transcribe this audio into text<|assistant|>\n",
        )

    def parse_answer(self, answer: str, request: Request) -> Answer:
        return Answer(answer.strip(), None)
