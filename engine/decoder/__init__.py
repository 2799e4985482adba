"""Stage 2: prompt embeddings -> hypotheses (token ids, log probabilities, why the text ended).

In: `(T, D)` embeddings of one prompt and DecodeParams, by `Decoder.submit`. Out: Hypothesis objects, by `Decoder.poll`.
Read base.py first: the seam that vLLM, transformers and the tests' fake all stand behind.
"""
