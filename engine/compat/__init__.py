"""The names and arguments of FunASR and of the qwen-asr package, implemented with this engine.

funasr.py has FunASR's, and qwen_asr.py the qwen-asr package's. A program that was written for one of them runs after a
change of its import line.
"""
