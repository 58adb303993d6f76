"""Which code makes a sample: a digest over the definitions behind a source or stage, and over no others.

These are its class and, one by one, the module-level names that its code mentions: functions, classes and constants of lt and of
the step's own package, what these mention in turn, and the classes of the objects that its fields hold. They count as syntax
trees, without docstrings and the types of arguments: comments, layout, another function in the file, or a line in a table that
the step does not read change nothing. What a step makes its samples with under a name that it is only told, it says itself:

    made_by       further classes, functions, modules or their names (`lt.models.unet`, `lt.models.unet:UNet`)
    not_made_by   names of packages, modules or definitions that are not followed

Not followed for any step is what carries, loads and names but makes nothing (`_BOOKKEEPING`); weights go by their own digests.
"""

import ast
import dataclasses
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType

_BOOKKEEPING = (
    *("lt.datagen.shards", "lt.datagen.engine", "lt.models.perception.registry"),
    *("lt.recipes.config", "lt.recipes.registry", "lt.recipes.shipped", "lt.recipes.system", "lt.recipes.training"),
)
_BUT_FOR = ("lt.datagen.shards.codec", "lt.datagen.shards.compose", "lt.datagen.engine.stage")
"""These decide what a sample holds."""

Definition = tuple[str, str]
"""A module and one of its names (`name`, `Class`, `Class.method`); "" stands for all of them."""


def code_version(step: object) -> str:
    """12 hex digits over the code that makes the samples of a source or stage."""
    made_by, not_made_by = getattr(step, "made_by", ()), getattr(step, "not_made_by", ())
    return code_of(type(step), *_held(step), *made_by, without=not_made_by)


def code_of(*things: object, without: Iterable[str] = ()) -> str:
    """12 hex digits over the code of classes, functions and modules, or what has such a name, and of what they mention."""
    return _digest(frozenset(_definition(thing) for thing in things), frozenset(without))


def _held(thing: object) -> Iterator[type]:
    """The classes of the dataclasses that the fields of one hold, at any depth."""
    inner = thing if isinstance(thing, tuple) else ()
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        inner = [getattr(thing, field.name) for field in dataclasses.fields(thing)]
    for value in inner:
        if dataclasses.is_dataclass(value):
            yield type(value)
        yield from _held(value)


@lru_cache
def _digest(roots: frozenset[Definition], without: frozenset[str]) -> str:
    found = sorted(behind(roots, without))
    texts = [f"{module}:{name}\n{ast.unparse(ast.Module(_statements(module, name), []))}" for module, name in found]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def behind(roots: Iterable[Definition], without: Iterable[str] = ()) -> set[Definition]:
    """`roots` and all definitions that they mention, directly or not."""
    found = set(roots)
    waiting = list(found)
    tops = {"lt", *(module.partition(".")[0] for module, _ in found)}
    while waiting:
        new = {there for there in _mentioned(*waiting.pop(), tops) if not _is_left_out(there, without)} - found
        found |= new
        waiting += new
    return found


def _is_left_out(there: Definition, without: Iterable[str]) -> bool:
    name = ".".join(there).rstrip(".")
    return _is_in(name, without) or (_is_in(name, _BOOKKEEPING) and not _is_in(name, _BUT_FOR))


def _is_in(name: str, packages: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def _definition(thing: object) -> Definition:
    if isinstance(thing, str):
        module, _, name = thing.partition(":")
    elif isinstance(thing, ModuleType):
        module, name = thing.__name__, ""
    else:
        module, name = thing.__module__, getattr(thing, "__qualname__", type(thing).__qualname__)
    module = "__main__" if module == "__mp_main__" else module  # what a spawned process calls the same script
    return module, name.partition(".<locals>")[0]


def _mentioned(module: str, name: str, tops: Iterable[str]) -> Iterator[Definition]:
    """What the definition of a name mentions, each with the module that it lies in."""
    body = ast.Module(_statements(module, name), [])
    imports = _parsed(module)[0] | _imports(body, module)
    for first, *rest in {chain for chain in _chains(body) if chain[0] != name}:
        if first not in imports:
            yield from _found(module, first)
        elif imports[first][0].partition(".")[0] in tops:
            there, imported = imports[first]
            yield from _led_to(there, [*filter(None, [imported]), *rest])


def _led_to(module: str, names: list[str]) -> Iterator[Definition]:
    """The definition at the end of `module.first.second`: through modules as far as they go."""
    for name in names:
        if _file(f"{module}.{name}") is None:
            yield from _found(module, name)
            return
        module = f"{module}.{name}"
    yield module, ""


def _found(module: str, name: str) -> Iterator[Definition]:
    """The definition of a module's name, also where the module has only imported it; nothing for built-in names."""
    if _statements(module, name):
        yield module, name
    elif name in (imports := _parsed(module)[0]):
        there, imported = imports[name]
        yield from _led_to(there, [*filter(None, [imported])])


@lru_cache
def _parsed(module: str) -> tuple[dict[str, Definition], list[tuple[set[str], ast.stmt]]]:
    """{alias: (module, name)} of a module's imports, and its statements, each with the names that it defines."""
    file = _file(module)
    tree = ast.parse(file.read_text(encoding="utf-8") if file else "")
    outside = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    imports = _imports(ast.Module(outside, []), module)
    body = [node for node in _Plain().visit(tree).body if not isinstance(node, ast.Import | ast.ImportFrom)]
    return imports, [(_defined(node), node) for node in body]


def _statements(module: str, name: str) -> list[ast.stmt]:
    """Those that define `name` or may change what it holds; of all names for ""."""
    outer, _, inner = name.partition(".")
    found = [node for names, node in _parsed(module)[1] if not outer or outer in names]
    if inner and len(found) == 1 and isinstance(found[0], ast.ClassDef):
        return [node for node in found[0].body if inner in _defined(node)]
    return found


class _Plain(ast.NodeTransformer):
    """Without what cannot change a sample: strings that stand alone, types in functions."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        for inner in ast.walk(node):
            if isinstance(inner, ast.FunctionDef):
                inner.returns = None
            elif isinstance(inner, ast.arg):
                inner.annotation = None
            elif isinstance(inner, ast.AnnAssign):
                inner.annotation = ast.Constant(None)
        return self.generic_visit(node)


def _defined(node: ast.stmt) -> set[str]:
    """Names that a statement binds or, called for what it does, may change."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return {node.name}
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {chain[0] for target in targets for chain in _chains(target)}
    return {chain[0] for chain in _chains(node)}


def _chains(node: ast.AST) -> Iterator[tuple[str, ...]]:
    """Every name that is mentioned, with the attributes that are asked of it: (`autoencoders`, `load`)."""
    names, inner = [], node
    while isinstance(inner, ast.Attribute):
        names.append(inner.attr)
        inner = inner.value
    if isinstance(inner, ast.Name):
        yield (inner.id, *reversed(names))
    else:
        for child in ast.iter_child_nodes(inner):
            yield from _chains(child)


def _imports(tree: ast.AST, module: str) -> dict[str, Definition]:
    file, (parent, _, _) = _file(module), module.rpartition(".")
    package = module if file and file.name == "__init__.py" else parent
    found: dict[str, Definition] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                found[alias.asname or top] = (alias.name if alias.asname else top, "")
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found |= {alias.asname or alias.name: (base, alias.name) for alias in node.names}
    return found


@lru_cache
def _file(module: str) -> Path | None:
    """The source file of a module, which is not imported for it; None if there is no such module, or no source to it."""
    parent, _, name = module.rpartition(".")
    if loaded := getattr(sys.modules.get(module), "__file__", None):
        return Path(loaded) if loaded.endswith(".py") else None
    if "." in parent:
        package = _file(parent)
        if package is None or package.name != "__init__.py":
            return None
        places = (package.with_name(f"{name}.py"), package.parent / name / "__init__.py")
        return next((place for place in places if place.is_file()), None)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # inside a module that is no package
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
