"""What command-line programs do to their whole process, before they import torch and once a model is loaded.

A library must not: what else its users run in the process would feel it.
"""

import gc
import logging
import os
import warnings


def quiet_libraries() -> None:
    """Let vLLM and torch print errors only; vLLM's start prints pages otherwise. Variables that are set already win."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("twostage_asr.engine.hub.fetch").setLevel(logging.INFO)  # gigabytes are announced


def spare_loaded_objects() -> None:
    """Keep Python's collector from looking through all that is loaded, again and again while transcripts are made.

    That takes a third of the time of words and their times, and half of a busy server's.
    """
    gc.collect()
    gc.freeze()
