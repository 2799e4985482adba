"""The names and arguments that users of FunASR and of qwen-asr know, over the same engine.

funasr.py has FunASR's, qwen_asr.py the qwen-asr package's. A program that was written for one of them runs after a
change of the import line.
"""
