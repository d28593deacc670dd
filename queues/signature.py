"""Reads a function's parameters from its module's source, without importing anything."""

from __future__ import annotations

import ast
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from inspect import Parameter, Signature
from itertools import repeat
from types import SimpleNamespace
from typing import Any, get_type_hints

from app.switchyard.errors import SettingsError, did_you_mean

UNKNOWN = object()
"""The annotation of a parameter whose type cannot be known without an import."""
_WORD = re.compile(r"[^\W\d]\w*")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source:
    """The source of one module, by its dotted path. Raises SettingsError where there is none."""

    def __init__(self, module: str) -> None:
        self.module = module
        spec = _spec_of(module)
        read = getattr(spec and spec.loader, "get_source", None)
        try:
            text = None if spec is None or read is None else read(spec.name)
            tree = None if text is None else ast.parse(text)
        except (ImportError, SyntaxError, ValueError, RecursionError, MemoryError) as failure:
            raise SettingsError(f"no source of a module {module!r}: {failure}") from None
        if spec is None or tree is None:
            raise SettingsError(f"no source of a module {module!r}")
        self.file = spec.origin or "?"
        package = module if spec.submodule_search_locations else module.rpartition(".")[0]
        self._body = list(_flat(tree.body))
        self._imports = imports_of(self._body, package)
        """Includes imports made only for type checkers, which the namespace does not have."""

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
        rows = [
            *zip(positional, kinds, defaults, strict=True),
            (given.vararg, Parameter.VAR_POSITIONAL, None),
            *zip(given.kwonlyargs, repeat(Parameter.KEYWORD_ONLY), given.kw_defaults),
            (given.kwarg, Parameter.VAR_KEYWORD, None),
        ]
        return Signature(
            [
                Parameter(
                    argument.arg,
                    kind,
                    default=Parameter.empty if default is None else literal(default),
                    annotation=_type(argument.annotation, names, namespace or {}),
                )
                for argument, kind, default in rows
                if argument is not None
            ]
        )

    def _function(self, name: str) -> _Function:
        functions = [node for node in self._body if isinstance(node, _Function)]
        found = [node for node in functions if node.name == name]
        if found:
            return found[-1]
        module, _, attribute = self._imports.get(name, "").partition(":")
        if attribute:
            at = f"{module}.{attribute}"
            raise SettingsError(f"{self.module}.{name} is defined as {at}: adopt that")
        hint = did_you_mean(name, (node.name for node in functions))
        raise SettingsError(f"{self.module} defines no function {name!r}{hint}")

    def _names(self, namespace: Mapping[str, Any] | None) -> Mapping[str, str | None]:
        """What the module's names stand for. Without its namespace, its own names are None."""
        if namespace is not None:
            return self._imports
        own = {node.name for node in self._body if isinstance(node, ast.ClassDef)}
        foreign = {
            name
            for name, path in self._imports.items()
            if re.split("[.:]", path)[0] not in sys.stdlib_module_names
        }
        return self._imports | dict.fromkeys(own | foreign)


def imports_of(nodes: Iterable[ast.AST], package: str) -> dict[str, str]:
    """The paths behind the imported names, as pkgutil.resolve_name() takes them: `module`, or
    `module:attribute`."""
    paths: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                paths[name] = alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom):
            module = module_of(node, package)
            paths |= {alias.asname or alias.name: f"{module}:{alias.name}" for alias in node.names}
    return paths


def module_of(node: ast.ImportFrom, package: str) -> str:
    """The module from which a file of the package imports. It stays relative if `package` has no
    such parent, where the import fails."""
    written = "." * node.level + (node.module or "")
    try:
        return resolve_name(written, package)
    except ImportError:
        return written


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
        # By its last name: of a folder without __init__.py a dotted one asks for its parent, which
        # nobody has imported.
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, including those under `if` and `try`."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _flat([*node.body, *node.orelse])
        if isinstance(node, ast.Try):
            yield from _flat([*(s for h in node.handlers for s in h.body), *node.finalbody])


def literal(node: ast.expr | None) -> Any:
    """The value of a literal. None for any other expression."""
    try:
        return None if node is None else ast.literal_eval(node)
    except (ValueError, TypeError):
        return None


def _type(
    node: ast.expr | None, names: Mapping[str, str | None], namespace: Mapping[str, Any]
) -> Any:
    if node is None:
        return Any
    text = ast.unparse(node)
    known = dict(namespace)
    try:
        for word in set(_WORD.findall(text)) & names.keys() - known.keys():
            path = names[word]
            if path is None:
                return UNKNOWN
            known[word] = pkgutil.resolve_name(path)
        holder: Any = SimpleNamespace(__annotations__={"it": text})
        return get_type_hints(holder, known, include_extras=True)["it"]
    except (NameError, ImportError, AttributeError, SyntaxError, TypeError, ValueError):
        return UNKNOWN
