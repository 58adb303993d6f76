"""Which code made a sample: the version of lt, and a digest of the modules behind a source or stage.

These are the module that defines it and what that one imports of its own package, at the top or inside functions, and so on.
Left out are lt's own shards and engine, which every step shares and which go by the version alone.
"""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from lt import __version__

_SHARED = ("lt.datagen.shards", "lt.datagen.engine")


def code_version(step: object) -> str:
    """Version of lt, and 8 hex digits over the source text of the modules behind `step`: `0.1.0+1f2e3d4c`."""
    return _version_of(type(step).__module__)


@lru_cache
def _version_of(module: str) -> str:
    texts = [f"{name}\0{_text(name)}" for name in sorted(_behind(module))]
    return f"{__version__}+{hashlib.sha256(chr(0).join(texts).encode()).hexdigest()[:8]}"


def _behind(module: str) -> set[str]:
    """`module` and all that it imports of its own top-level package, directly or not."""
    module = "__main__" if module == "__mp_main__" else module  # what a spawned process calls the same script
    found, waiting = {module}, [module]
    while waiting:
        new = _imports(waiting.pop()) - found
        found |= new
        waiting += new
    return found


@lru_cache
def _imports(module: str) -> frozenset[str]:
    file, (parent, _, _), (top, _, _) = _file(module), module.rpartition("."), module.partition(".")
    package = module if file and file.name == "__init__.py" else parent
    names = {name for node in ast.walk(ast.parse(_text(module))) for name in _named_by(node, package)}
    own = (name for name in names if name.partition(".")[0] == top and not name.startswith(_SHARED))
    return frozenset(name for name in own if _file(name))


def _named_by(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)  # a module, or a name that `_file` does not find


@lru_cache
def _file(module: str) -> Path | None:
    """The source file of a module; None if there is no such module, or no source to it."""
    if module == "__main__":
        origin = getattr(sys.modules["__main__"], "__file__", None)
    else:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):  # inside a module that is no package
            return None
        origin = spec.origin if spec else None
    return Path(origin) if origin and origin.endswith(".py") else None


def _text(module: str) -> str:
    file = _file(module)
    return file.read_text(encoding="utf-8") if file else ""
