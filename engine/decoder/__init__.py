"""Stage 2: prompt embeddings -> hypotheses (token ids, log-probabilities, finish reason).

In: (P, hidden_size) embeddings of one prompt and DecodeParams, through `Decoder.submit`. Out: Hypothesis objects, from
`Decoder.poll`. Read base.py first: it defines the interface of all decoders (vLLM, our own LLM blocks in PyTorch,
both together, the tests' fake).
"""
