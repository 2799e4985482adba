"""interim"""
from dataclasses import dataclass
from .ctc_tokenizer import CTCTokenizer
@dataclass
class Alignment:
    words: object
    reason: object
class WordAligner:
    def __init__(self,*a): pass
    def align(self,h,t,d): return [Alignment((),None) for _ in t]
