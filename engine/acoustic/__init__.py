"""How stage 1 runs on a device: staging in pinned memory, compilation, and CUDA graphs.

In: the waveforms of one batch. Out: an EncodedBatch, whose embeddings stage 2 decodes. The networks are in encoders/,
and families/ chooses among them. Read tower.py first.
"""
