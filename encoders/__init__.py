"""Stage 1: nn.Modules and tensor functions that turn waveforms into what the LLM and the CTC head read."""

SAMPLE_RATE = 16_000  # Hz, of every waveform in this package
