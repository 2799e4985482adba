"""Text and the CTC head's hidden states of its audio -> words with times and confidence.

In: texts, hidden states of the CTC head, durations. Out: an Alignment for each text: all of its words, or None with the
reason. Read aligner.py first. For models without a CTC head, a forced aligner (forced_aligner.py) finds the times.
"""
