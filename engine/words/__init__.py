"""Written text and what the CTC head computed of its audio -> words with times and confidence.

In: texts, encoder frames of the CTC head, durations. Out: an Alignment for each text: all of its words, or None with
the reason. Read aligner.py first; a forced aligner (forced_aligner.py) gives times for models without a CTC head.
"""
