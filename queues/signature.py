"""Reads a function's parameters from its module's source, without importing anything."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from inspect import Parameter, Signature
from types import MappingProxyType, SimpleNamespace
from typing import Any, get_type_hints

from app.switchyard.errors import SettingsError, did_you_mean

UNKNOWN = object()
"""The annotation of a parameter whose type cannot be known without an import."""
_WORD = re.compile(r"[^\W\d]\w*")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Imported:
    """The object behind an imported name: a module, or one of its attributes."""

    module: str
    attribute: str | None

    def load(self) -> Any:
        """Import it."""
        module = importlib.import_module(self.module)
        return module if self.attribute is None else getattr(module, self.attribute)


class Source:
    """The source of one module, by its dotted path. Raises SettingsError where there is none."""

    def __init__(self, module: str) -> None:
        self.module = module
        spec = _spec_of(module)
        read = getattr(spec and spec.loader, "get_source", None)
        text = None if spec is None or read is None else read(spec.name)
        if spec is None or text is None:
            raise SettingsError(f"no source of a module {module!r}")
        self.file = spec.origin or "?"
        self._package = module if spec.submodule_search_locations else module.rpartition(".")[0]
        self._tree = ast.parse(text, self.file)

    def signature(self, name: str, namespace: Mapping[str, Any] | None = None) -> Signature:
        """The parameters of function `name`. A default that is not a literal is None.

        Annotations are types of the standard library, or UNKNOWN for all others. With the
        `namespace` of the imported module all annotations are known. Raises SettingsError where
        the module does not define the function.
        """
        names = self._names(namespace)
        given = self._function(name).args
        positional = [*given.posonlyargs, *given.args]
        defaults = [*[None] * (len(positional) - len(given.defaults)), *given.defaults]
        kinds: list[Any] = [Parameter.POSITIONAL_ONLY] * len(given.posonlyargs)
        kinds += [Parameter.POSITIONAL_OR_KEYWORD] * len(given.args)
        rows: list[tuple[ast.arg, Any, ast.expr | None]]
        rows = [*zip(positional, kinds, defaults, strict=True)]
        rows += [(given.vararg, Parameter.VAR_POSITIONAL, None)] if given.vararg else []
        rows += [
            (argument, Parameter.KEYWORD_ONLY, default)
            for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
        ]
        rows += [(given.kwarg, Parameter.VAR_KEYWORD, None)] if given.kwarg else []
        return Signature(
            [
                Parameter(
                    argument.arg,
                    kind,
                    default=Parameter.empty if default is None else _literal(default),
                    annotation=_type(argument.annotation, names, namespace or _NOTHING),
                )
                for argument, kind, default in rows
            ]
        )

    def _function(self, name: str) -> _Function:
        functions = [node for node in _flat(self._tree.body) if isinstance(node, _Function)]
        found = [node for node in functions if node.name == name]
        if found:
            return found[-1]
        where = self._imports().get(name)
        if where is not None and where.attribute is not None:
            at = f"{where.module}.{where.attribute}"
            raise SettingsError(f"{self.module}.{name} is defined as {at}: adopt that")
        hint = did_you_mean(name, (node.name for node in functions))
        raise SettingsError(f"{self.module} defines no function {name!r}{hint}")

    def _names(self, namespace: Mapping[str, Any] | None) -> dict[str, Imported | None]:
        """What the module's names stand for. Without its namespace, its own names are None."""
        imports = dict[str, Imported | None](self._imports())
        if namespace is not None:
            return imports
        own = {node.name for node in _flat(self._tree.body) if isinstance(node, ast.ClassDef)}
        foreign = {
            name
            for name, what in imports.items()
            if what is not None and what.module.partition(".")[0] not in sys.stdlib_module_names
        }
        return imports | dict.fromkeys(own | foreign)

    def _imports(self) -> dict[str, Imported]:
        """Includes imports made only for type checkers, which the namespace does not have."""
        found: dict[str, Imported] = {}
        for node in _flat(self._tree.body):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    found[name] = Imported(alias.name if alias.asname else name, None)
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                if node.level:
                    module = resolve_name("." * node.level + module, self._package)
                for alias in node.names:
                    found[alias.asname or alias.name] = Imported(module, alias.name)
        return found


def _spec_of(module: str) -> ModuleSpec | None:
    """Where a module is. importlib's own find_spec() would import the packages around it."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except (ValueError, ModuleNotFoundError):  # `__main__`, or not a module's name
        return None
    for name in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{name}", spec.submodule_search_locations)
    return spec


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, including those under `if` and `try`."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _flat([*node.body, *node.orelse])
        if isinstance(node, ast.Try):
            yield from _flat([*(s for h in node.handlers for s in h.body), *node.finalbody])


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _type(
    node: ast.expr | None, names: Mapping[str, Imported | None], namespace: Mapping[str, Any]
) -> Any:
    if node is None:
        return Any
    text = ast.unparse(node)
    known = dict(namespace)
    try:
        for word in set(_WORD.findall(text)) & names.keys() - known.keys():
            what = names[word]
            if what is None:
                return UNKNOWN
            known[word] = what.load()
        holder: Any = SimpleNamespace(__annotations__={"it": text})
        return get_type_hints(holder, known, include_extras=True)["it"]
    except (NameError, ImportError, AttributeError, SyntaxError, TypeError):
        return UNKNOWN
