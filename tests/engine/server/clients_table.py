"""What clients of the ecosystem send, a row each: facts about their public code, replayed with `requests`.

`source` is the repository and the path in it that show what is sent; {wav} stands for the file, as its content or as
base64.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One client's request, and what it reads of the answer."""

    client: str  # as demos/clients.md calls it
    source: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    form: tuple[tuple[str, str], ...] = ()
    part: str = "file"  # the name of the file's part
    filename: str | None = "audio.wav"  # None: as `requests` names a part that is bytes
    content_type: str | None = None
    is_raw: bool = False  # samples without a head
    json: Any = None  # in place of a form
    reads: Literal["text", "verbose", "subtitles", "chat", "plain", "language"] = "text"
    ignored: tuple[str, ...] = ()  # what X-Ignored-Fields names


TRANSCRIPTIONS = "/v1/audio/transcriptions"
CHAT = "/v1/chat/completions"


def asking(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A chat request with these parts in its one message."""
    return {"model": "m", "messages": [{"role": "user", "content": list(parts)}], **fields}


INPUT_AUDIO = {"type": "input_audio", "input_audio": {"data": "{wav}", "format": "wav"}}
DATA_URL = {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,{wav}"}}

ROWS = (
    # https://platform.openai.com/docs/api-reference/audio: the examples with curl
    Row(
        client="curl, as in OpenAI's documentation",
        source="openai/openai-openapi openapi.yaml",
        path=TRANSCRIPTIONS,
        form=(("model", "gpt-4o-transcribe"),),
    ),
    Row(
        client="curl, as in OpenAI's documentation",
        source="openai/openai-openapi openapi.yaml",
        path=TRANSCRIPTIONS,
        form=(
            ("timestamp_granularities[]", "word"),
            ("timestamp_granularities[]", "segment"),
            ("model", "whisper-1"),
            ("response_format", "verbose_json"),
        ),
        reads="verbose",
    ),
    Row(
        client="curl, as in OpenAI's documentation",
        source="openai/openai-openapi openapi.yaml",
        path=TRANSCRIPTIONS,
        form=(
            ("model", "gpt-4o-transcribe-diarize"),
            ("chunking_strategy", "auto"),
            ("known_speaker_names[]", "agent"),
            ("known_speaker_references[]", "data:audio/wav;base64,AAAA"),
        ),
        ignored=("known_speaker_names", "known_speaker_references"),
    ),
    # verbose_json is asked for in every call, to know the duration
    Row(
        client="LiteLLM",
        source="BerriAI/litellm litellm/llms/openai/transcriptions/whisper_transformation.py",
        path=TRANSCRIPTIONS,
        form=(("model", "whisper-1"), ("response_format", "verbose_json"), ("atranscription", "true"), ("user", "u")),
        reads="verbose",
        ignored=("atranscription", "user"),
    ),
    # null stands for what is not set
    Row(
        client="LangChain (chat models)",
        source="langchain-ai/langchain libs/partners/openai/langchain_openai/chat_models/base.py",
        path=CHAT,
        json=asking(
            INPUT_AUDIO, {"type": "text", "text": "Transcribe."}, stream=False, n=1, temperature=None, stop=None
        ),
        reads="chat",
    ),
    Row(
        client="Dify",
        source="langgenius/dify-plugin-sdks python/dify_plugin/interfaces/model/openai_compatible/speech2text.py",
        path=TRANSCRIPTIONS,
        form=(("model", "m"),),
        filename="temp.mp3",
    ),
    Row(
        client="Open WebUI",
        source="open-webui/open-webui backend/open_webui/routers/audio.py",
        path=TRANSCRIPTIONS,
        form=(("model", "m"), ("language", "en")),
    ),
    Row(
        client="LiveKit Agents",
        source="livekit/agents livekit-plugins/livekit-plugins-openai/livekit/plugins/openai/stt.py",
        path=TRANSCRIPTIONS,
        form=(("model", "whisper-1"), ("language", "en"), ("response_format", "verbose_json")),
        filename="file.wav",
        content_type="audio/wav",
        reads="verbose",
    ),
    Row(
        client="Pipecat",
        source="pipecat-ai/pipecat src/pipecat/services/openai/stt.py",
        path=TRANSCRIPTIONS,
        form=(("model", "whisper-1"), ("language", "en")),
        content_type="audio/wav",
    ),
    Row(
        client="SpeechRecognition",
        source="Uberi/speech_recognition speech_recognition/recognizers/whisper_api/openai.py",
        path=TRANSCRIPTIONS,
        form=(("model", "whisper-1"),),
        filename="SpeechRecognition_audio.wav",
        content_type="audio/x-wav",
    ),
    # the model, the language and the rest come as parts of their own, without a content type
    Row(
        client="Home Assistant",
        source="einToast/openai_stt_ha custom_components/openai_stt/stt.py",
        path=TRANSCRIPTIONS,
        form=(
            ("model", "gpt-4o-mini-transcribe"),
            ("language", "en"),
            ("prompt", ""),
            ("temperature", "0"),
            ("response_format", "json"),
        ),
        filename="whisper_audio.wav",
        content_type="audio/wav",
    ),
    Row(
        client="Home Assistant",
        source="fabio-garavini/ha-openai-whisper-stt-api custom_components/openai_whisper_cloud/stt.py",
        path=TRANSCRIPTIONS,
        form=(("model", "whisper-1"), ("language", "en"), ("temperature", "0.0"), ("prompt", "")),
    ),
    # samples without a head; `requests` calls the file by the part's name
    Row(
        client="Bazarr",
        source="morpheus65535/bazarr custom_libs/subliminal_patch/providers/whisperai.py",
        path="/asr",
        query={"task": "transcribe", "language": "en", "output": "srt", "encode": "false", "video_file": "/a b.mkv"},
        part="audio_file",
        filename=None,
        is_raw=True,
        reads="subtitles",
        ignored=("video_file",),
    ),
    Row(
        client="Bazarr",
        source="morpheus65535/bazarr custom_libs/subliminal_patch/providers/whisperai.py",
        path="/detect-language",
        query={"encode": "false"},
        part="audio_file",
        filename=None,
        is_raw=True,
        reads="language",
    ),
    Row(
        client="clients of whisper-asr-webservice",
        source="ahmetoner/whisper-asr-webservice app/webservice.py",
        path="/asr",
        query={
            **{"encode": "true", "task": "transcribe", "output": "txt", "vad_filter": "true"},
            **{"word_timestamps": "true", "initial_prompt": "", "diarize": "false"},
        },
        part="audio_file",
        reads="plain",
    ),
    Row(
        client="clients of whisper.cpp's server",
        source="ggml-org/whisper.cpp examples/server/README.md",
        path="/inference",
        form=(("temperature", "0.0"), ("temperature_inc", "0.2"), ("response_format", "json")),
        ignored=("temperature_inc",),
    ),
    Row(
        client="clients of whisper.cpp's server",
        source="ggml-org/whisper.cpp examples/server/server.cpp",
        path="/inference",
        form=(("response_format", "vtt"), ("language", "en"), ("split_on_word", "true"), ("translate", "false")),
        reads="subtitles",
        ignored=("split_on_word",),
    ),
    Row(
        client="FunASR's clients",
        source="FunAudioLLM/Fun-ASR docs/vllm_guide.md",
        path="/asr",
        form=(("language", "zh"), ("hotwords", "one,two"), ("spk", "true")),
    ),
    # the message of Qwen3-ASR's documentation for `vllm serve`
    Row(
        client="Qwen3-ASR's clients of vLLM",
        source="QwenLM/Qwen3-ASR README.md",
        path=CHAT,
        json=asking(DATA_URL),
        reads="chat",
    ),
    # the page that QwenLM/Qwen3-ASR README.md names: data is a URL or a data URL
    Row(
        client="Alibaba Model Studio's clients of Qwen3-ASR",
        source="help.aliyun.com/zh/model-studio/qwen-speech-recognition",
        path=CHAT,
        json=asking(
            {"type": "input_audio", "input_audio": {"data": "data:audio/wav;base64,{wav}"}},
            stream=False,
            asr_options={"enable_itn": False, "language": "zh"},
        ),
        reads="chat",
    ),
    Row(
        client="vLLM's multimodal chat client",
        source="vllm-project/vllm examples/online_serving/openai_chat_completion_client_for_multimodal.py",
        path=CHAT,
        json=asking({"type": "text", "text": "What's in this audio?"}, INPUT_AUDIO, max_completion_tokens=64),
        reads="chat",
    ),
)
