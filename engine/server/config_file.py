"""Read the `config.yaml` of Zerolan's services: which model to load, and where to serve it.

ASR:
  id: "Qwen/Qwen3-ASR-1.7B-vllm"         # the entry of `config` to use
  host: "0.0.0.0"
  port: 11001
  config:
    Qwen/Qwen3-ASR-1.7B-vllm:
      model_path: "Qwen/Qwen3-ASR-1.7B"
      gpu_memory_utilization: 0.7
      max_inference_batch_size: 128
      max_new_tokens: 4096
      forced_aligner: null
      forced_aligner_device_map: "cuda:0"   # accepted; it runs where the encoder does, in its dtype
      forced_aligner_dtype: "bfloat16"

Its values are options of `serve`, and the command line counts more.
"""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import ConfigError
from ..text_files import read_text
from .failures import first_problem

PROMPT_ROOM = 4096  # LLM positions beside the longest answer: 5 minutes of Qwen3-ASR's audio


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ModelEntry(_Strict):
    """One entry of `config`."""

    model_path: str
    gpu_memory_utilization: float | None = None
    max_inference_batch_size: Annotated[int | None, Field(ge=-1)] = None  # -1: as many as the engine likes
    max_new_tokens: Annotated[int | None, Field(ge=1)] = None
    forced_aligner: str | None = None
    forced_aligner_device_map: str | None = None
    forced_aligner_dtype: str | None = None


class ServiceEntry(_Strict):
    id: str
    host: str | None = None
    port: Annotated[int | None, Field(ge=0, le=65535)] = None
    config: dict[str, ModelEntry]

    @property
    def model(self) -> ModelEntry:
        return self.config[self.id]

    def options(self) -> dict[str, Any]:
        """The same as options of `serve`, by the names of its flags."""
        model = self.model
        batch, tokens = model.max_inference_batch_size, model.max_new_tokens
        options = {
            "model": model.model_path,
            "forced-aligner": model.forced_aligner,
            "served-model-name": self.id,
            "host": self.host,
            "port": self.port,
            "gpu-memory-utilization": model.gpu_memory_utilization,
            "vllm": {"max_num_seqs": batch} if batch is not None and batch > 0 else None,
            "max-new-tokens": tokens,
            "max-model-len": None if tokens is None else PROMPT_ROOM + tokens,
        }
        return {name: value for name, value in options.items() if value is not None}


def read_config_file(path: Path) -> ServiceEntry:
    """The `ASR` entry. Other services in the file are ignored.

    Raises:
        ConfigError: the file is not YAML, or an entry is missing, unknown or of the wrong type.
    """
    try:
        content = yaml.safe_load(read_text(path))
        entry = ServiceEntry.model_validate(content["ASR"])
        entry.model  # noqa: B018 - must exist
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path} needs an entry ASR whose `config` has the model of its `id`: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {': '.join(first_problem(error, 'ASR'))}") from error
    except ConfigError:
        raise
    # ValueError: a date that does not exist; RecursionError: lists nested thousands deep
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return entry
