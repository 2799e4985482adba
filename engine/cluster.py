"""Many machines: jobs, datasets and servers on a Ray cluster (`pip install "twostage-asr[ray]"`).

- `run_job` lets actors work on one job's folder (jobs/), which all nodes reach. Leases share the work, journals keep
  it: an actor or node that dies costs what it had in hand, and Ray starts the actor elsewhere.
- `transcribe_dataset` maps a Ray Dataset: for pipelines that are Ray Data already, and where no folder is shared.
- `serve_app` deploys the HTTP and WebSocket server with Ray Serve.

Each actor or replica holds both stages of one model on `num_gpus` GPUs.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import ray

from .audio.inputs import AudioInput
from .closing import Closing
from .errors import ConfigError
from .jobs import JobFolder, JobRun, Plan
from .model import LoadedModel
from .options import GenerateOptions
from .run_options import transcribe_options
from .transcriber import Transcriber

MAX_ONGOING = 64  # requests of one replica under way; more wait at the proxy
DRAIN_S = 30.0  # that a replica which is being replaced has for its requests and sessions

Load = Callable[[Mapping[str, Any]], Transcriber]  # the arguments of AutoModelVLLM -> the model
