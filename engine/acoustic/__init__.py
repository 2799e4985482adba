"""How stage 1 runs on a device: batches staged into pinned memory, compiled, and replayed as CUDA graphs.

In: waveforms of one batch. Out: an EncodedBatch, whose embeddings stage 2 decodes. What is computed is in encoders/ and
chosen in families/; here is how it is run. Read runner.py first.
"""
