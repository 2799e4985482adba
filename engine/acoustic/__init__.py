"""How stage 1 runs on a device: staging in pinned memory, compilation, and CUDA graphs.

In: waveforms of one batch. Out: an EncodedBatch, whose embeddings stage 2 decodes. What is computed is in encoders/ and
chosen in families/; here is how it is run. Read base.py first.
"""
