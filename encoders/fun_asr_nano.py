"""Stage 1 of Fun-ASR-Nano: waveforms -> encoder_out (for the CTC head) and audio_embeds (for the LLM)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypeVar

from torch import Tensor, nn

from .adaptor import AdaptorConfig, Count, TransformerAdaptor, audio_token_count
from .ctc import CTCConfig, CTCHead
from .fbank import fbank_frame_lens, graph_fbank, lfr_frame_lens, log_mel_fbank, stack_frames
from .sensevoice import SenseVoiceConfig, SenseVoiceEncoder

_Config = TypeVar("_Config", SenseVoiceConfig, AdaptorConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class FunASRNanoAcousticConfig:
    """The sizes of stage 1. Raises ValueError if the parts do not fit together."""

    encoder: SenseVoiceConfig
    adaptor: AdaptorConfig
    ctc: CTCConfig | None  # None where the checkpoint has no complete CTC head
    low_frame_rate: bool  # the LLM gets the first ceil(T / 8) adaptor frames instead of all T

    def __post_init__(self) -> None:
        readers = {"adaptor": self.adaptor} | ({"ctc.decoder": self.ctc.decoder} if self.ctc else {})
        for name, reader in readers.items():
            if reader.encoder_dim != self.encoder.output_dim:
                raise ValueError(
                    f"{name}.encoder_dim is {reader.encoder_dim}, but encoder.output_dim is {self.encoder.output_dim}"
                )
        if self.low_frame_rate and self.adaptor.downsample_rate != 1:
            raise ValueError(
                f"low_frame_rate needs adaptor.downsample_rate 1, got {self.adaptor.downsample_rate}: "
                "no published model combines them"
            )

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of plain values, for JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """Raises ValueError for an unknown or missing key, a value of the wrong type, or sizes that cannot work."""
        _check_keys(cls, mapping, "acoustic")
        ctc = None if mapping["ctc"] is None else _read_ctc(mapping["ctc"])
        if type(mapping["low_frame_rate"]) is not bool:
            raise ValueError(f"acoustic.low_frame_rate must be true or false, got {mapping['low_frame_rate']!r}")
        return cls(
            encoder=_read_sizes(SenseVoiceConfig, mapping["encoder"], "acoustic.encoder"),
            adaptor=_read_sizes(AdaptorConfig, mapping["adaptor"], "acoustic.adaptor"),
            ctc=ctc,
            low_frame_rate=mapping["low_frame_rate"],
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AcousticBatch:
    """Output of stage 1 for B clips, padded to the longest. Rows beyond a clip's length have no meaning."""

    encoder_out: Tensor  # (B, T, encoder_dim), one frame per 60 ms, in the encoder's dtype
    encoder_lens: Tensor  # (B,) int64, on the device of the sample_lens given
    audio_embeds: Tensor  # (B, A, llm_dim), what the LLM reads, in the adaptor's dtype; A = max(audio_lens)
    audio_lens: Tensor  # (B,) int64, on the device of the sample_lens given


class FunASRNanoAcoustic(nn.Module):
    """Encoder, adaptor and, where the checkpoint has one, CTC head.

    Its state dict has the checkpoint's keys: `audio_encoder.*`, `audio_adaptor.*`, `ctc_decoder.*`, `ctc.ctc_lo.*`.
    """

    def __init__(self, config: FunASRNanoAcousticConfig) -> None:
        super().__init__()
        self.config = config
        self.audio_encoder = SenseVoiceEncoder(config.encoder)
        self.audio_adaptor = TransformerAdaptor(config.adaptor)
        # The tuple keeps the head from being a submodule: its parts are, under the checkpoint's names.
        self._ctc_heads: tuple[CTCHead, ...] = ()
        if config.ctc is not None:
            head = CTCHead(config.ctc)
            self._ctc_heads = (head,)
            self.ctc_decoder = head.ctc_decoder
            self.ctc = head.ctc

    @property
    def ctc_head(self) -> CTCHead | None:
        """The CTC head over this model's own weights, or None."""
        return self._ctc_heads[0] if self._ctc_heads else None

    def encode(self, waveforms: Tensor, sample_lens: Tensor, dither: float = 0.0) -> AcousticBatch:
        """Run stage 1 on waveforms, whose form `features` describes. The caller decides about gradients."""
        features, lens = self.features(waveforms, sample_lens, dither)
        encoder_out, audio_embeds = self(features, lens)
        return AcousticBatch(
            encoder_out=encoder_out,
            encoder_lens=lens,
            audio_embeds=audio_embeds,
            audio_lens=self.num_audio_tokens(lens),
        )

    def features(self, waveforms: Tensor, sample_lens: Tensor, dither: float = 0.0) -> tuple[Tensor, Tensor]:
        """The encoder's input.

        Args:
            waveforms: (B, N) float32 in [-1, 1], 16 kHz, on the model's device; padding is ignored.
            sample_lens: (B,) int64 in 2..N, on the CPU, so that a GPU is never waited for.
            dither: see `log_mel_fbank`.

        Returns:
            (B, T, 560) float32 and its lens, (B,) int64 on the CPU.

        Raises:
            ValueError: a wrong shape or dtype, or a length outside 2..N.
        """
        rows, _ = stack_frames(*log_mel_fbank(waveforms, sample_lens, dither=dither))
        return rows, lfr_frame_lens(fbank_frame_lens(sample_lens))

    def graph_features(self, waveforms: Tensor, sample_lens: Tensor, dither: float = 0.0) -> tuple[Tensor, Tensor]:
        """`features` in operations that a CUDA graph can hold; see `graph_fbank`. All lens are on its device."""
        return stack_frames(*graph_fbank(waveforms, sample_lens, dither=dither))

    def forward(self, features: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """Run encoder and adaptor.

        Args:
            features: (B, T, 560) float32.
            lens: (B,) int64. transformer.py says what their device means.

        Returns:
            encoder_out (B, T, encoder_dim), one frame per 60 ms, for the CTC head; audio_embeds (B, A, llm_dim), of
            which the LLM reads a clip's first `num_audio_tokens` rows. Rows beyond a clip's length have no meaning.
        """
        encoder_out = self.audio_encoder(features, lens)
        # The adaptor needs all frames for its attention; those that the LLM does not read are cut off after it.
        adapted, _ = self.audio_adaptor(encoder_out, lens)
        return encoder_out, adapted[:, : self.num_audio_tokens(features.shape[1])]

    def num_audio_tokens(self, num_frames: Count) -> Count:
        """Rows of audio_embeds for a clip of `num_frames` encoder frames."""
        rate = self.config.adaptor.downsample_rate
        return audio_token_count(num_frames) if self.config.low_frame_rate else -(-num_frames // rate)


def _read_ctc(mapping: Mapping[str, Any]) -> CTCConfig:
    _check_keys(CTCConfig, mapping, "acoustic.ctc")
    decoder = _read_sizes(AdaptorConfig, mapping["decoder"], "acoustic.ctc.decoder")
    sizes = {key: value for key, value in mapping.items() if key != "decoder"}
    _check_integers(sizes, "acoustic.ctc")
    return CTCConfig(decoder=decoder, **sizes)


def _read_sizes(cls: type[_Config], mapping: Mapping[str, Any], where: str) -> _Config:
    _check_keys(cls, mapping, where)
    _check_integers(mapping, where)
    return cls(**mapping)


def _check_keys(cls: type[Any], mapping: Mapping[str, Any], where: str) -> None:
    if not isinstance(mapping, Mapping):
        raise ValueError(f"{where} must be a mapping, got {mapping!r}")
    expected = {field.name for field in fields(cls)}
    missing, unknown = sorted(expected - mapping.keys()), sorted(mapping.keys() - expected)
    if missing or unknown:
        raise ValueError(f"{where}: missing keys {missing}, unknown keys {unknown}; it needs {sorted(expected)}")


def _check_integers(sizes: Mapping[str, Any], where: str) -> None:
    for key, value in sizes.items():
        if type(value) is not int:
            raise ValueError(f"{where}.{key} must be a whole number, got {value!r}")
