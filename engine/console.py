"""Settings that programs make for their whole process, and notebooks may: logging, and garbage collection.

A library must not make them by itself, because they affect everything else that its users run in the process.
"""

import gc
import logging
import os
import sys
import warnings


def quiet_libraries() -> None:
    """Let vLLM and torch print only errors, since vLLM prints pages at its start. Call it before a model is made.

    Called before torch is imported, which `AutoModelVLLM` does, it quiets the C++ side of torch too.

    Environment variables that are already set are left alone.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("twostage_asr.engine.cli.plot").setLevel(logging.WARNING)  # boxes in place of characters
    logging.getLogger("twostage_asr.engine.hub.fetch").setLevel(logging.INFO)  # announces downloads of gigabytes
    logging.getLogger("twostage_asr.engine.loader").setLevel(logging.INFO)  # how many engines run on a GPU, and why


def tell_loading(model: object) -> None:
    """Say on a terminal why nothing else is shown for a while."""
    if sys.stderr.isatty():
        print(f"loading {model}", file=sys.stderr)  # noqa: T201 - programs call this


def spare_loaded_objects() -> None:
    """Exclude all objects loaded so far from garbage collection. Call it once the model is loaded.

    Scanning them again and again takes a third of the time of word alignment, and half of a busy server's time.
    """
    gc.collect()
    gc.freeze()
