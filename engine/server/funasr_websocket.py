"""FunASR's JSON WebSocket, at `/` beside its text commands: the protocol of the clients of FunASR's runtime.

    client: {"mode": "offline" | "online" | "2pass", "wav_name", "wav_format", "audio_fs", "hotwords", "itn",
             "svs_lang", "is_speaking": true}, audio as bytes, {"is_speaking": false}; other recordings may follow
    server: {"mode", "text", "wav_name", "is_final", "timestamp": "[[ms, ms], ...]", "stamp_sents": [...]}

The protocol is described in FunASR's runtime/docs/websocket_protocol.md. These rules also follow from how FunASR's
clients in Python, C++ and HTML use it:

- "offline" answers once, after the end. Its audio is 16-bit PCM at `audio_fs` Hz, or the bytes of a file if
  `wav_format` is anything else than "pcm". The other modes take only PCM.
- Clients append "online" and "2pass-online" texts, so each holds only new text that will not change.
- A "2pass-offline" text replaces the "2pass-online" texts since the one before it, and has the times of its words.
- The last answer to a recording has "is_final": true, even if nothing was said. Some clients end with "is_end": true;
  their last answer has it as well, and has "is_final": false if the recording could not be transcribed.

An answer with "error" and "code" says what went wrong. `chunk_size` and similar fields tune FunASR's model and have no
effect here. A message may change the settings of a recording until some of its audio has come.
"""

import json
import logging
import re
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..audio.waveform import SAMPLE_RATE
from ..errors import ASRError, ConfigError, PromptTooLongError
from ..run_options import TranscribeOptions
from ..streaming import AsyncStreamingSession, Event, Final, PCMReader, TextSoFar, samples_of
from ..transcript import Segment, Transcript, Word
from .bodies import require_few_values
from .commands import finish_stream
from .failures import Refusal, first_problem
from .fields import hotwords_in, named
from .pcm import MIN_PCM_BYTES, Resampler
from .recognizer import Recognizer
from .sessions import Link, SessionEnd

MAX_NAME_CHARS = 4096  # of wav_name, as long as a path may be: every answer repeats it

_MARKS = "，。？！；：、…,.?!;:"
_WITHOUT_MEANING = frozenset({"chunk_size", "chunk_interval", "encoder_chunk_look_back", "decoder_chunk_look_back"})

log = logging.getLogger("twostage_asr.sessions")

Answer = dict[str, Any]


class Settings(BaseModel):
    """How recordings are transcribed; a client may spread the settings over several messages."""

    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True)

    mode: Literal["offline", "online", "2pass"] = "2pass"
    wav_name: Annotated[str, Field(max_length=MAX_NAME_CHARS)] = "microphone"
    wav_format: str = "pcm"
    audio_fs: int = SAMPLE_RATE  # Hz, of PCM
    hotwords: str | list[str] | dict[str, Any] = ""  # '{"word": weight}', or words
    itn: bool = True
    svs_lang: str | None = None

    @property
    def is_pcm(self) -> bool:
        return self.wav_format.casefold() == "pcm"

    def words(self, max_values: int) -> list[str]:
        """The hotwords; their weights mean nothing here.

        Raises ConfigError for JSON that is wrong or has more values.
        """
        given: Any = self.hotwords
        if isinstance(given, str) and given.lstrip().startswith("{"):
            given = _json_object(given, max_values)
        if not isinstance(given, str):
            return list(given)
        return hotwords_in(given if re.search(r"[,，、\n]", given) else ",".join(given.split()))


class Message(Settings):
    """One text message of a client."""

    is_speaking: bool = True
    is_end: bool = False


def is_classic(message: str | bytes | None) -> bool:
    """Whether a client whose first message this is uses this protocol. No text command begins with a brace."""
    return isinstance(message, str) and message.lstrip().startswith("{")


class ClassicSession:
    """One client's connection: any number of recordings."""

    def __init__(self, link: Link, recognizer: Recognizer) -> None:
        self._link = link
        self._recognizer = recognizer
        self._said: dict[str, Any] = {}  # fields of Settings that the client has sent
        self._settings = Settings()
        self._recording: _Recording | None = None
        self._num_bytes = 0  # audio of the recording so far
        self._unknown: set[str] = set()  # unknown fields that have been logged

    async def run(self, first: str | bytes | None) -> None:
        """Handle messages until the client disconnects or the server shuts down; `first` has been received already."""
        message = first
        while message is not None:
            try:
                if isinstance(message, str):
                    await self._obey(message)
                else:
                    await self._hear(message)
            except (ConfigError, PromptTooLongError) as error:
                # What follows would be heard in another way than the client thinks.
                await self._fail(error)
                raise SessionEnd(1008, str(error)) from error
            message = await self._link.receive(joined=True)
        if self._recording is not None:  # the server is shutting down: transcribe what has been heard
            await self._finish()

    async def _obey(self, text: str) -> None:
        found = _json_object(text, self._recognizer.settings.max_json_values)
        said = {name: value for name, value in found.items() if value is not None}
        self._log_unknown(said)
        try:
            message = Message.model_validate(self._said | said)
        except ValidationError as error:
            raise ConfigError(": ".join(first_problem(error))) from error
        self._said |= {name: value for name, value in said.items() if name in Settings.model_fields}
        if not self._num_bytes:  # a recording keeps the settings that it was begun with, and with them its limits
            self._settings = message
        if not message.is_speaking:
            await self._finish(is_end=message.is_end)
        elif not self._num_bytes:
            self._recording = self._begin()

    def _begin(self) -> "_Recording":
        """Raises ConfigError or PromptTooLongError for what the model or this server does not take."""
        settings, limits = self._settings, self._recognizer.settings
        if not limits.min_sample_rate <= settings.audio_fs <= limits.max_sample_rate:
            allowed = f"{limits.min_sample_rate} to {limits.max_sample_rate}"
            raise ConfigError(f"audio_fs is {settings.audio_fs}, allowed are {allowed} Hz")
        if settings.svs_lang:
            self._recognizer.require_prompt(settings.svs_lang)
            self._recognizer.require_language(settings.svs_lang)
        if settings.mode == "offline":
            return _Whole(self._link, self._recognizer, settings)
        if not settings.is_pcm:
            message = f"mode {settings.mode!r} takes pcm alone, got wav_format {settings.wav_format!r}; use 'offline'"
            raise ConfigError(message)
        return _Live(self._recognizer, settings)

    async def _hear(self, content: bytes) -> None:
        if self._recording is None:  # the next recording, for which the client has not repeated its settings
            self._settings = Settings.model_validate(self._said)
            self._recording = self._begin()
        self._num_bytes += len(content)
        self._require_size()
        try:
            answers = await self._recording.hear(content)
        except ASRError as error:  # for example a full service: a later chunk yields the text that is missing
            await self._fail(error)
            return
        for answer in answers:
            await self._send(answer)

    def _require_size(self) -> None:
        limits, settings = self._recognizer.settings, self._settings
        if not settings.is_pcm:
            if self._num_bytes > limits.max_body_bytes:
                raise SessionEnd(1009, f"a file may have {limits.max_body_bytes:,} bytes")
        elif self._num_bytes // 2 > limits.max_audio_s * settings.audio_fs:
            raise SessionEnd(1009, f"more than {limits.max_audio_s:g} s of audio")

    async def _finish(self, *, is_end: bool = False) -> None:
        """End the recording and send its remaining answers; the last one says that it is the last."""
        recording, self._recording, self._num_bytes = self._recording, None, 0
        end = {"is_end": True} if is_end else {}
        try:
            answers = [] if recording is None else await recording.finish()
        except ASRError as error:
            await self._fail(error, is_final=not is_end, **end)
            return
        finally:
            self._link.hold(0)
        mode = "2pass-offline" if self._settings.mode == "2pass" else self._settings.mode
        *earlier, last = answers or [{"mode": mode, "text": ""}]
        for answer in earlier:
            await self._send(answer)
        await self._send(last | {"is_final": True} | end)

    async def _send(self, answer: Answer) -> None:
        await self._link.send({"wav_name": self._settings.wav_name, "is_final": False} | answer)

    async def _fail(self, error: ASRError, **fields: Any) -> None:
        """Send an error answer. Raises SessionEnd if the engine has failed or the service is closed."""
        about = {"mode": self._settings.mode, "text": "", "wav_name": self._settings.wav_name, "is_final": False}
        await self._link.fail(error, **about | fields)

    def _log_unknown(self, said: dict[str, Any]) -> None:
        unknown = set(said) - set(Message.model_fields) - _WITHOUT_MEANING - self._unknown
        if unknown and not self._unknown:  # once a session: a client can invent any number
            log.info("ignored, since they are unknown here: %s", named(sorted(unknown)))
            self._unknown = unknown


class _Recording(Protocol):
    """One recording. Its answers lack `wav_name` and `is_final`, which the session adds."""

    async def hear(self, content: bytes) -> list[Answer]: ...

    async def finish(self) -> list[Answer]: ...


class _Whole:
    """Mode "offline": the whole recording is transcribed at its end."""

    def __init__(self, link: Link, recognizer: Recognizer, settings: Settings) -> None:
        self._link = link
        self._recognizer = recognizer
        self._settings = settings
        self._options = _options(recognizer, settings)
        self._content = bytearray()

    async def hear(self, content: bytes) -> list[Answer]:
        self._content += content
        self._link.hold(len(self._content))
        return []

    async def finish(self) -> list[Answer]:
        content, settings, client = bytes(self._content), self._settings, self._link.client
        self._content.clear()
        if settings.is_pcm:
            content = content[: len(content) // 2 * 2]  # drop half a sample at the end
            if len(content) < MIN_PCM_BYTES:
                return []
            self._link.hold(3 * len(content))  # with the samples that are made of it
            recording = await self._recognizer.read(samples_of(content), settings.audio_fs, client=client)
        else:
            recording = await self._recognizer.read(content, client=client)
        return [_final_answer("offline", await self._recognizer.transcribe(recording, self._options))]


class _Live:
    """Modes "online" and "2pass": text is sent while the recording goes on."""

    def __init__(self, recognizer: Recognizer, settings: Settings) -> None:
        self._recognizer = recognizer
        self._is_2pass = settings.mode == "2pass"
        self._stream = AsyncStreamingSession(recognizer.service, _options(recognizer, settings), recognizer.funasr_live)
        self._reader = PCMReader()
        self._resampler = Resampler(settings.audio_fs)
        self._so_far = TextSoFar()
        self._finals = self._sent = ""  # the text of all finals, and all text that the client has been sent

    async def hear(self, content: bytes) -> list[Answer]:
        samples = self._resampler.push(self._reader.samples(content))
        return self._answers(await self._stream.push(samples)) if len(samples) else []

    async def finish(self) -> list[Answer]:
        return self._answers(await finish_stream(self._stream, self._resampler.finish()))

    def _answers(self, events: list[Event]) -> list[Answer]:
        answers: list[Answer] = []
        for event in events:
            self._so_far.add([event])
            before, self._sent = self._sent, self._so_far.fixed_text
            if isinstance(event, Final):
                transcript, new = event.transcript, self._sent[len(self._finals) :]
                self._finals = self._sent
                self._recognizer.metrics.count(transcript)
                if transcript.status == "error":
                    answers.append({"text": "", "error": transcript.error, "code": "segment_failed"})
                if self._is_2pass:
                    answers += [_final_answer("2pass-offline", transcript, new)] if new else []
                    continue
            if new := self._sent[len(before) :]:
                answers.append({"mode": "2pass-online" if self._is_2pass else "online", "text": new})
        return answers


def _options(recognizer: Recognizer, settings: Settings) -> TranscribeOptions:
    """Raises ConfigError or PromptTooLongError for what is not taken."""
    words = settings.words(recognizer.settings.max_json_values)
    return recognizer.options(language=settings.svs_lang, hotwords=words, itn=settings.itn)


def _final_answer(mode: str, transcript: Transcript, text: str | None = None) -> Answer:
    """A transcript in FunASR's form; `text` replaces its own text if given."""
    answer: Answer = {"mode": mode, "text": transcript.text if text is None else text}
    if transcript.words is not None:
        answer["timestamp"] = json.dumps([_ms(word) for word in transcript.words])
        answer["stamp_sents"] = [sentence for segment in transcript.segments for sentence in _sentences(segment)]
    return answer


def _sentences(segment: Segment) -> list[Answer]:
    """The sentences of a segment, split at punctuation marks; words are separated by spaces."""
    sentences: list[Answer] = []
    current: list[Word] = []
    position, words = 0, segment.words or ()
    for index, word in enumerate(words):
        position = max(segment.text.find(word.text, position), position) + len(word.text)
        current.append(word)
        following = segment.text[position : position + 1]
        mark = following if following in _MARKS else ""
        if mark or index == len(words) - 1:
            sentence = {"text_seg": " ".join(each.text for each in current), "punc": mark}
            times = [_ms(each) for each in current]
            sentences.append({**sentence, "start": times[0][0], "end": times[-1][1], "ts_list": times})
            current = []
    return sentences


def _ms(word: Word) -> list[int]:
    return [round(word.start * 1000), round(word.end * 1000)]


def _json_object(text: str, max_values: int) -> dict[str, Any]:
    """Raises ConfigError for anything else, and for one that has more values, before it is parsed."""
    try:
        require_few_values(text.encode(errors="surrogatepass"), max_values)
        found = json.loads(text)
    except Refusal as refusal:
        raise ConfigError(str(refusal.detail)) from refusal
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {text[:50]!r}: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"a message is a JSON object, got {text[:50]!r}")
    return found
