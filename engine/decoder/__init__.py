"""Stage 2: prompt embeddings -> hypotheses."""
