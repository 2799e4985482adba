"""GLM-ASR-Nano: an encoder with 30 s windows, and a Llama."""

from ...encoders.glm_asr import GLMASRTower, GLMASRTowerConfig
from ..prompt import PromptText
from .base import Answer, Request
from .towers import TowerFamily


class GLMASRNano(TowerFamily):
    """The family of zai-org/GLM-ASR-Nano-2512."""

    name = "glm_asr"
    languages: tuple[str, ...] = ()
    best_length_s = 30.0  # longer audio is encoded in windows of 30 s, and known to lose text: GLM-ASR issue 39
    tower, config, part = GLMASRTower, GLMASRTowerConfig, "encoder of GLM-ASR"

    def prompt_text(self, request: Request) -> PromptText:
        """The official prompt; its second user turn is intentional. The model detects the language."""
        request.refuse("GLM-ASR-Nano", "language", "hotwords", "itn", "context")
        return PromptText(
            prefix="<|user|>\n<|begin_of_audio|>",
            suffix="<|end_of_audio|><|user|>\nPlease transcribe this audio into text<|assistant|>\n",
        )

    def parse_answer(self, answer: str, request: Request) -> Answer:
        return Answer(answer.strip(), None)
