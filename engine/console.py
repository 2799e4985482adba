"""What command-line programs do before they import torch or vLLM; a library must not."""

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
