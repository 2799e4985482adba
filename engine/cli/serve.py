"""`twostage-asr serve` and `serve-realtime`: run the HTTP and WebSocket server."""

import argparse
import contextlib
import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import spare_loaded_objects
from ..decoder.sharing import share_gpu_ahead
from ..errors import ConfigError
from ..text_files import read_lines
from .command import add_model_options, model_options
from .file_options import add_known_speakers, known_speakers
from .parser import Commands, new_parser

if TYPE_CHECKING:
    from ..auto import AutoModelVLLM
    from ..server.front_ends import Setup
    from ..server.loading import LoadingServer
    from ..server.operation import OperationServer
    from ..server.process import Address
    from ..server.recognizer import Recognizer
    from ..server.settings import ServerSettings
    from ..server.wyoming import WyomingServer
    from ..speakers.enrolment import KnownSpeakers

MAX_PORT = 65_535
MAX_FRONT_ENDS = 64
KEY_VARIABLE = "TWOSTAGE_ASR_API_KEYS"
PROMPT_BYTES_PER_BYTE = 4  # most bytes of a prompt per byte from a client: short hotwords are joined by separators

_LIMITS = (  # fields of ServerSettings: type, unit, default, and the help that the command line gives
    ("max_connections", int, "N", "2048", "open; at the limit idle ones make room"),
    ("max_connections_per_address", int, "N", "1024", "of one client or proxy"),
    ("max_head_bytes", int, "BYTES", "32768", "of a request's line and headers"),
    ("header_timeout_s", float, "SECONDS", "20", "until they have come"),
    ("max_body_bytes", int, "BYTES", "268435456", "of one request"),
    ("max_upload_bytes", int, "BYTES", "1073741824", "of all bodies at work; more are answered 429"),
    ("body_grace_s", float, "SECONDS", "20", "that a body may take besides its bytes at --min-body-rate"),
    ("min_body_rate", int, "N", "500", "bytes a second, below which a body is answered 408; 0: any"),
    ("max_json_values", int, "N", "10000", "of one body that is JSON"),
    ("max_json_bytes", int, "BYTES", "16777216", "of one request whose body is JSON"),
    ("max_audio_s", float, "SECONDS", "10800", "of one request or session"),
    ("max_samples", int, "N", "1073741824", "of all channels of one request, decoded"),
    ("max_decoding_s", float, "SECONDS", "120", "of a processor that decoding one request may take"),
    ("min_sample_rate", int, "HZ", "4000", "of what clients send"),
    ("max_sample_rate", int, "HZ", "384000", "of what clients send"),
    ("max_new_tokens", int, "N", "512", "of one answer"),
    ("max_prompt_bytes", int, "BYTES", "16384", "of UTF-8: hotwords, context and language of one request"),
    ("max_requests", int, "N", "256", "under way; more are answered 429"),
    ("max_requests_per_client", int, "N", "a quarter of them", "of one key, or address without keys"),
    ("max_waiting", int, "N", "512", "clips not yet encoded; more are answered 429"),
    ("request_timeout_s", float, "SECONDS", "600", "from a request's first byte to its last"),
    ("retry_after_s", int, "SECONDS", "1", "that answers 429 and 503 suggest"),
    ("max_sessions", int, "N", "256", "WebSockets at a time"),
    ("max_sessions_per_client", int, "N", "a quarter of them", "of one key, or address without keys"),
    ("max_message_bytes", int, "BYTES", "10485760", "of one WebSocket message"),
    ("max_session_bytes", int, "BYTES", "1073741824", "that all WebSockets keep; beyond it the largest is ended"),
    ("session_idle_s", float, "SECONDS", "60", "without a message, until a WebSocket is closed"),
    ("session_timeout_s", float, "SECONDS", "14400", "until a WebSocket is closed"),
    ("drain_delay_s", float, "SECONDS", "0", "after SIGTERM: /ready is 503, requests are still taken"),
    ("drain_s", float, "SECONDS", "30", "then, that requests and sessions get to end"),
)


def add_parser(commands: Commands) -> None:
    _add(commands, "serve", 8899, "serve HTTP (OpenAI's, FunASR's and other APIs), WebSockets and a web page")
    _add(commands, "serve-realtime", 10095, "serve live WebSockets and the web page alone")


def _add(commands: Commands, name: str, port: int, what: str) -> None:
    parser = new_parser(
        commands,
        name,
        help=what,
        usage="MODEL",
        examples=(
            f"twostage-asr {name} FunAudioLLM/Fun-ASR-Nano-2512  # then open http://127.0.0.1:{port}/",
            f"twostage-asr {name} my_model --host 0.0.0.0 --api-key-file keys.txt",
        ),
    )
    parser.add_argument(
        "served_model", nargs="?", metavar="MODEL", help="the same as --model, as `vllm serve` takes it"
    )
    add_model_options(parser)
    where = parser.add_argument_group("the server")
    where.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all interfaces")
    where.add_argument("--port", type=_port, default=port, help="0 for any that is free")
    where.add_argument(
        "--wyoming", metavar="URI", help="serve Home Assistant's protocol too, as tcp://127.0.0.1:10300 (default: no)"
    )
    where.add_argument(
        "--operation-port",
        type=_port,
        metavar="PORT",
        help="of a second server for /health, /ready and /metrics alone (default: none)",
    )
    where.add_argument(
        "--front-ends",
        type=_front_ends,
        default="auto",
        metavar="N",
        help="processes that parse requests and read audio beside the engine's; 0: that one does so itself "
        "(default auto: 4 beside a CUDA GPU on 8 cores or more, else 0)",
    )
    where.add_argument("--no-docs", action="store_true", help="serve neither /docs nor /openapi.json")
    where.add_argument("--served-model-name", metavar="NAME", help="in /v1/models (default: the model's name)")
    where.add_argument("--language", help="where a request names none (default: the model finds it)")
    where.add_argument(
        "--hotwords-file",
        "--hotword-file",
        type=Path,
        metavar="FILE",
        help="for all requests, one a line (default: none)",
    )
    add_known_speakers(where)
    where.add_argument("--vad", default="silero", help='of live audio: "silero", or the directory of an fsmn-vad')
    where.add_argument("--chunk-ms", type=float, default=480.0, help="of live audio between two partial texts")
    where.add_argument(
        "--samples", type=Path, metavar="DIR", help="audio files that the web page offers to try (default: none)"
    )
    where.add_argument("--tls-certificate", type=Path, metavar="FILE", help="to serve HTTPS (default: HTTP)")
    where.add_argument("--tls-key", type=Path, metavar="FILE", help="of that certificate (default: in the same file)")
    where.add_argument(
        "--log-level", choices=["debug", "info", "warning", "error"], default="info", help="least severe"
    )
    _add_permissions(parser)
    _add_limits(parser)
    parser.set_defaults(run=run, needs_model=False)  # it may be named without --model


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits")
    for limit, kind, unit, default, meaning in _LIMITS:
        option = f"--{limit.replace('_', '-')}"
        limits.add_argument(option, metavar=unit, type=kind, help=f"{meaning} (default: {default})")


def _add_permissions(parser: argparse.ArgumentParser) -> None:
    permissions = parser.add_argument_group("who may do what")
    permissions.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help=f"keys, one a line as KEY or NAME:KEY, read again when it changes "
        f"(default: {KEY_VARIABLE}, which has keys between spaces)",
    )
    permissions.add_argument(
        "--no-auth",
        action="store_true",
        help="serve whoever reaches --host or --wyoming; else keys are needed beyond this machine",
    )
    permissions.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="that clients may call this server, beside localhost and addresses; *: any, the default with keys",
    )
    permissions.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="or network, whose X-Forwarded-For and X-Forwarded-Proto are believed",
    )
    permissions.add_argument(
        "--cors-origin", action="append", default=[], metavar="ORIGIN", help="of web pages; null: from a disk"
    )
    permissions.add_argument(
        "--allow-url-host", action="append", default=[], metavar="HOST", help="that audio may be fetched from"
    )
    permissions.add_argument(
        "--strict-fields", action="store_true", help="refuse requests with fields that mean nothing here"
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"a port is 0 to {MAX_PORT}, got {text!r}")
    return int(text)


def _front_ends(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) > MAX_FRONT_ENDS:
        raise argparse.ArgumentTypeError(f"auto, or 0 to {MAX_FRONT_ENDS}, got {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Load the model, serve until the end, and return the exit code."""
    from ..server.front_ends import FrontEnds, number_of_front_ends
    from ..server.loading import LoadingServer
    from ..server.operation import OperationServer
    from ..server.process import bind, log, set_up_log

    _name_model(args)
    limits = {name: value for name, *_ in _LIMITS if (value := getattr(args, name)) is not None}
    settings = _settings(args, limits)
    address = _address(args)
    wyoming = None if args.wyoming is None else _wyoming(args.wyoming, no_auth=args.no_auth)
    set_up_log(args.log_level)
    sockets = bind(address)
    operation = None if args.operation_port is None else OperationServer(args.host, args.operation_port)
    log.info("loading %s; requests are answered 503 until that is done", args.model)
    beside = None if operation is None else operation.listening
    with contextlib.closing(LoadingServer(sockets, address, settings, beside)) as loading:
        share_gpu_ahead(args)
        num_front_ends = number_of_front_ends(args.front_ends, args.device)
        if not num_front_ends:
            return _serve_here(args, settings, address, sockets, loading, wyoming=wyoming, operation=operation)
        setup = _setup(args, settings, address, num_front_ends)
        with contextlib.closing(FrontEnds(setup, sockets)) as front_ends, _loaded(args, settings) as model:
            loading.hand_over()
            return front_ends.serve(model.transcriber, operation)


def _serve_here(
    args: argparse.Namespace,
    settings: "ServerSettings",
    address: "Address",
    sockets: list[socket.socket],
    loading: "LoadingServer",
    *,
    wyoming: "Callable[[Recognizer], WyomingServer] | None",
    operation: "OperationServer | None",
) -> int:
    """Serve without front ends."""
    from ..server.app import create_app
    from ..server.process import Listener, serve
    from ..server.recognizer import Recognizer
    from ..vad import load_vad

    with _loaded(args, settings) as model:
        recognizer = Recognizer.of(model.transcriber, settings, vad=load_vad(args.vad), chunk_ms=args.chunk_ms)
        try:
            app = create_app(recognizer, offline=args.command == "serve", has_docs=not args.no_docs)
            beside: list[Listener] = [] if wyoming is None else [wyoming(recognizer)]
            if operation is not None:
                beside.append(operation.watching(recognizer))
            loading.hand_over()
            return serve(app, recognizer, address, sockets, beside=beside)
        finally:
            recognizer.close()


@contextlib.contextmanager
def _loaded(args: argparse.Namespace, settings: "ServerSettings") -> "Iterator[AutoModelVLLM]":
    """The model. A speaker model that was named, or that knows voices, is loaded as well.

    Else the first request that asks who speaks loads one.
    """
    from ..auto import AutoModelVLLM  # imports torch
    from ..config import DEFAULT_PROMPT_BYTES
    from ..speakers.loading import find_weights

    prompt_bytes = PROMPT_BYTES_PER_BYTE * settings.max_prompt_bytes
    is_wanted = args.speaker_model != "auto" or bool(args.known_speakers)
    if is_wanted:
        find_weights(args.speaker_model)  # fail before the LLM loads, which takes minutes
    with AutoModelVLLM(**model_options(args), max_prompt_bytes=max(DEFAULT_PROMPT_BYTES, prompt_bytes)) as model:
        if is_wanted:
            model.transcriber.speaker_model()
        spare_loaded_objects()
        yield model


def _name_model(args: argparse.Namespace) -> None:
    """Take the model that is named without an option. Exits if it is named twice, or not at all."""
    if args.served_model is not None:
        if "model" in args.given:
            args.error(f"the model is named twice: {args.served_model} and --model {args.model}")
        args.model = args.served_model
    if args.model is None:
        args.error("which model? MODEL, such as FunAudioLLM/Fun-ASR-Nano-2512, or --model in a file of options")


def _address(args: argparse.Namespace) -> "Address":
    from ..server.process import Address

    return Address(
        host=args.host,
        port=args.port,
        tls_certificate=args.tls_certificate,
        tls_key=args.tls_key,
        trusted_proxies=tuple(args.trusted_proxy),
    )


def _setup(args: argparse.Namespace, settings: "ServerSettings", address: "Address", num_front_ends: int) -> "Setup":
    from ..server.front_ends import Setup

    return Setup(
        settings=settings,
        address=address,
        vad=args.vad,
        chunk_ms=args.chunk_ms,
        offline=args.command == "serve",
        has_docs=not args.no_docs,
        wyoming=args.wyoming,
        log_level=args.log_level,
        num_front_ends=num_front_ends,
    )


def _wyoming(uri: str, *, no_auth: bool) -> "Callable[[Recognizer], WyomingServer]":
    """What makes the server of that protocol. Raises ConfigError before the model is loaded."""
    try:
        from ..server.wyoming import WyomingAddress, WyomingServer
    except ImportError as error:
        raise ConfigError(f'--wyoming needs pip install ".[wyoming]": {error}') from error
    address = WyomingAddress.of(uri)
    if address.host is not None and not no_auth and not _is_loopback(address.host):
        raise ConfigError(
            f"whoever reaches {address.host} could use this server, since the Wyoming protocol has no keys: give "
            "--no-auth, without API keys, if others are to use it; or --wyoming tcp://127.0.0.1:PORT"
        )
    return lambda recognizer: WyomingServer(recognizer, address)


def _settings(args: argparse.Namespace, limits: dict[str, Any]) -> "ServerSettings":
    from ..server.page_content import ModelNote, PageContent, find_samples
    from ..server.settings import ServerSettings

    keys = () if args.api_key_file else _keys_of_environment()
    if args.no_auth and (keys or args.api_key_file):
        raise ConfigError(f"--no-auth with API keys: leave out one of them ({KEY_VARIABLE} or --api-key-file)")
    needs_key = bool(keys or args.api_key_file)
    if not needs_key and not args.no_auth and not _is_loopback(args.host):
        raise ConfigError(
            f"whoever reaches {args.host or 'any interface'} could use this server: give API keys ({KEY_VARIABLE} or "
            "--api-key-file), --no-auth if others are to use it without, or --host 127.0.0.1"
        )
    return ServerSettings(
        model_name=args.served_model_name or Path(args.model).name.lower(),
        language=args.language,
        hotwords=tuple(_lines(args.hotwords_file)) if args.hotwords_file else (),
        api_keys=keys,
        api_key_file=args.api_key_file,
        allowed_hosts=(*args.allow_host, args.host) if args.allow_host or not needs_key else (),
        cors_origins=tuple(args.cors_origin),
        url_hosts=tuple(args.allow_url_host),
        strict_fields=args.strict_fields,
        page=PageContent(ModelNote.of(args.model), find_samples(args.samples) if args.samples else {}),
        names_speakers=args.speaker_model != "auto",
        known_speakers=_enrolled(args),
        **limits,
    )


def _enrolled(args: argparse.Namespace) -> "KnownSpeakers | None":
    """The known speakers, embedded on the CPU, so that front ends get them before there is a model.

    Raises:
        ConfigError, AudioError: a clip cannot be used.
        HubError, CheckpointError: there is no speaker model.
    """
    known = known_speakers(args)
    if not known:
        return None
    import torch

    from ..run_options import SpeakerSettings
    from ..speakers.loading import load_speaker_model
    from ..speakers.stage import enrolled

    return enrolled(load_speaker_model(args.speaker_model, torch.device("cpu")), SpeakerSettings(known=known))


def _keys_of_environment() -> tuple[str, ...]:
    """The keys in the environment. Raises ConfigError if the variable is set but empty: its author wanted keys."""
    value = os.environ.get(KEY_VARIABLE)
    if value is not None and not value.strip():
        raise ConfigError(f"{KEY_VARIABLE} is set but holds no key; unset it if no keys are wanted")
    return tuple((value or "").split())


def _is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _lines(path: Path) -> list[str]:
    return [line for line in read_lines(path) if line]
