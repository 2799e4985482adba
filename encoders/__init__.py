"""Stage 1 as PyTorch modules and functions: waveforms -> embeddings for the LLM and frames for the CTC head.

Nothing here imports the engine. Read fun_asr_nano.py first: the modules of one model, put together.
"""

SAMPLE_RATE = 16_000  # Hz, of every waveform in this package
