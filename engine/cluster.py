"""Many machines: jobs, datasets and servers on a Ray cluster (`pip install "twostage-asr[ray]"`).

- `run_job` lets actors work on one job's folder (jobs/), which all nodes reach. Leases share the work, journals keep
  it: an actor or node that dies costs what it had in hand, and Ray starts the actor elsewhere.
- `transcribe_dataset` maps a Ray Dataset: for pipelines that are Ray Data already, and where no folder is shared.
- `serve_app` deploys the HTTP and WebSocket server with Ray Serve.

Each actor or replica holds both stages of one model on `num_gpus` GPUs.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.data

from .audio.inputs import AudioInput
from .errors import ConfigError
from .jobs import JobFolder, JobRun, Plan
from .jobs.lease import EXPIRY_S
from .jobs.listing import source_of
from .options import GenerateOptions
from .run_options import transcribe_options
from .transcriber import Transcriber

# Of a replica that goes away, unless the server's settings say otherwise: for the first, its sessions may go on, and
# they have the second for their last text.
DRAIN = {"drain_delay_s": 30.0, "drain_s": 30.0}
NOTICE_S = 10.0  # in which a replica has noticed that it is to go away

Load = Callable[[Mapping[str, Any]], Transcriber]  # the arguments of AutoModelVLLM -> the model


def load_model(arguments: Mapping[str, Any]) -> Transcriber:
    """AutoModelVLLM with these arguments; an actor's process holds it until it ends."""
    from .auto import AutoModelVLLM

    return AutoModelVLLM(**arguments).transcriber


def connect(address: str | None) -> None:
    """Join the cluster at this address, or the one of this machine, unless this process has joined one."""
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)


class JobActor:
    """Works on a job's folder with one model, on a node of the cluster."""

    def __init__(self, load: Load, model: Mapping[str, Any], expiry_s: float) -> None:
        self._model = load(model)
        self._expiry_s = expiry_s

    def work(self, directory: Path, options: GenerateOptions, retry_failed: bool) -> int:
        """Do this actor's part; returns the number of inputs that it did once the whole job is complete."""
        plan = Plan.read(directory)
        if plan is None:
            raise ConfigError(f"{directory} holds no job on this node: the job's folder must be shared by all nodes")
        folder = JobFolder.of(plan)
        with JobRun(folder, retry_failed=retry_failed, expiry_s=self._expiry_s) as run:
            return sum(1 for _ in run.run(partial(self._model.run, options=transcribe_options(**options))))


def run_job(
    directory: Path,
    model: Mapping[str, Any],
    options: GenerateOptions,
    *,
    address: str | None = None,
    num_workers: int = 1,
    num_gpus: float = 1.0,
    retry_failed: bool = False,
    load: Load = load_model,
) -> list[int]:
    """Complete a job that has a plan, with actors of a cluster whose nodes all reach its folder by the same path.

    Args:
        directory: the job's folder; see JobFolder.open.
        model: the arguments of AutoModelVLLM.
        options: how to transcribe.
        address: of the cluster; None: the one of this machine, or a new one on it.
        num_workers: actors, each with a model.
        num_gpus: of each actor.
        retry_failed: see JobRun.
        load: builds the model on a node.

    Returns:
        The number of inputs that each actor did since it was last started.
    """
    connect(address)
    # Ray starts an actor, and its task, anew if its process or node dies.
    kind = ray.remote(max_restarts=-1, max_task_retries=-1, num_gpus=num_gpus, scheduling_strategy="SPREAD")(JobActor)
    actors = [kind.remote(load, dict(model), EXPIRY_S) for _ in range(num_workers)]
    work = [actor.work.remote(directory.resolve(), options, retry_failed) for actor in actors]
    try:
        done: list[int] = ray.get(work)
    finally:  # a caller that keeps the exception keeps this frame, and with it the actors
        for actor in actors:
            ray.kill(actor)
    return done


class DatasetModel:
    """What map_batches runs on each actor: both stages of one model, over the rows of a batch."""

    def __init__(self, load: Load, model: Mapping[str, Any], options: GenerateOptions, column: str) -> None:
        self._model = load(model)
        self._options = transcribe_options(**options)
        self._column = column

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Adds the columns "text", "status" and "transcript" (JSON) to a batch."""
        sources = batch[self._column].tolist()
        items = [_dataset_input(source, f"row_{i}") for i, source in enumerate(sources)]
        results = dict(self._model.run(items, self._options))
        transcripts = [results[i] for i in range(len(items))]
        batch["text"] = [transcript.text for transcript in transcripts]
        batch["status"] = [transcript.status for transcript in transcripts]
        batch["transcript"] = [transcript.to_json() for transcript in transcripts]
        return batch


def _dataset_input(source: object, key: str) -> AudioInput:
    """A path, a URL or the content of a file as an input."""
    if isinstance(source, bytes):
        return AudioInput(key=key, source=source)
    return AudioInput(key=str(source), source=source_of(str(source)))


def transcribe_dataset(
    ds: Any,
    *,
    model: str | Path,
    column: str = "audio",
    num_workers: int | tuple[int, int] = 1,
    num_gpus: float = 1.0,
    batch_size: int = 512,
    load: Load = load_model,
    options: GenerateOptions | None = None,
    **engine: Any,
) -> Any:
    """A Ray Dataset with the columns "text", "status" and "transcript" (JSON) added; nothing runs until it is consumed.

    Ray Data streams blocks through the actors, holds back reading while they are busy, and runs again what an actor or
    a preempted node had in hand. Order within a block is kept.

    Args:
        ds: a ray.data.Dataset.
        model, engine: the arguments of AutoModelVLLM.
        column: a path, URL or content of a file in each row.
        num_workers: actors; (least, most) scales between them.
        num_gpus: of each actor.
        batch_size: rows that an actor gets at a time; a batch ends before the next begins, so a GPU needs hundreds.
        load: builds the model on a node.
        options: how to transcribe.
    """
    concurrency = (
        {"size": num_workers}
        if isinstance(num_workers, int)
        else dict(zip(("min_size", "max_size"), num_workers, strict=True))
    )
    return ds.map_batches(
        DatasetModel,
        fn_constructor_args=(load, {"model": str(model), **engine}, options or {}, column),
        compute=ray.data.ActorPoolStrategy(**concurrency),
        batch_size=batch_size,
        num_gpus=num_gpus,
    )


def serve_app(
    model: Mapping[str, Any],
    *,
    settings: Mapping[str, Any] | None = None,
    replicas: tuple[int, int] = (1, 8),
    num_gpus: float = 1.0,
    target_requests: int = 32,
    autoscaling: Mapping[str, Any] | None = None,
    load: Load = load_model,
) -> Any:
    """The HTTP and WebSocket server as a Ray Serve application, for `start_serving` or `serve run`.

    A WebSocket session stays with the replica that took it. A replica that goes away, because there are fewer requests
    or another version is deployed, takes no more of them. Its sessions may go on for drain_delay_s, and are then
    ended with their last text and code 1012. A replica whose engine has failed is replaced.

    Args:
        model: the arguments of AutoModelVLLM.
        settings: fields of ServerSettings; drain_delay_s is 30 by default.
        replicas: least and most, each with a model on `num_gpus` GPUs.
        target_requests: under way or waiting for each replica, sessions included; with more, replicas are added.
        autoscaling: further fields of Ray's AutoscalingConfig, such as upscale_delay_s and downscale_delay_s.
        load: builds the model on a node.
    """
    from ray import serve

    from .ray_replica import HEALTH_S

    asked = DRAIN | dict(settings or {})
    if "api_key_file" in asked:  # a Serve config has texts
        asked["api_key_file"] = Path(asked["api_key_file"])

    def build() -> Any:
        return _app_of_replica(load(model), asked)

    class Server:
        app: Any  # what build() returns; set by serve.ingress

        async def check_health(self) -> None:
            await self.app.state.replica.check()

    deployment = serve.deployment(
        serve.ingress(build)(Server),
        name="twostage-asr",
        ray_actor_options={"num_gpus": num_gpus},
        max_ongoing_requests=2 * target_requests,
        graceful_shutdown_timeout_s=NOTICE_S + asked["drain_delay_s"] + asked["drain_s"],
        health_check_period_s=HEALTH_S,
        autoscaling_config={
            "min_replicas": replicas[0],
            "initial_replicas": replicas[0],
            "max_replicas": replicas[1],
            "target_ongoing_requests": target_requests,
            **(autoscaling or {}),
        },
    )
    return deployment.bind()


def _app_of_replica(model: Transcriber, settings: Mapping[str, Any]) -> Any:
    """The server of one replica, which its health checks find in its state."""
    from .ray_replica import ReplicaState
    from .server.app import create_app
    from .server.recognizer import Recognizer
    from .server.settings import ServerSettings
    from .vad import load_vad

    recognizer = Recognizer.of(model, ServerSettings(**settings), vad=load_vad())
    app = create_app(recognizer)
    app.state.replica = ReplicaState(recognizer)
    return app


def serve_application(args: dict[str, Any]) -> Any:
    """What a Serve config names as its import_path: `args` are the arguments of serve_app."""
    return serve_app(**args)


def start_serving(application: Any, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve the application of `serve_app` on this address of the cluster's nodes; see ray_proxy.py as well."""
    from ray import serve

    serve.start(http_options={"host": host, "port": port})
    serve.run(application, name="twostage-asr", route_prefix="/")
