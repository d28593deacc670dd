"""Builds the wheel: the layer alone, its four folders as one package `switchyard`.

In this repository the layer is `app.switchyard`, `queues`, `workflows`, `flags` and
`migrations/switchyard`; an adopter's own package is often called `app`, so the wheel has all of it
under one import name. Files move and import lines change, by syntax tree; nothing else does.
"""

from __future__ import annotations

import ast
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "switchyard"
MODULES = {
    "app.switchyard": PACKAGE,
    "queues": f"{PACKAGE}.queues",
    "workflows": f"{PACKAGE}.workflows",
    "flags": f"{PACKAGE}.flags",
}
FOLDERS = {
    "app/switchyard": "",
    "queues": "queues",
    "workflows": "workflows",
    "migrations/switchyard": "migrations",
}


class LayerHook(BuildHookInterface):  # type: ignore[type-arg]
    """Lays the package out in a temporary folder, and has hatchling pack that."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See hatchling."""
        root = Path(self.root)
        self._made = tempfile.mkdtemp()
        package = Path(self._made) / PACKAGE
        for source, to in FOLDERS.items():
            for file in sorted((root / source).rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    _copy(file, package / to / file.relative_to(root / source))
        _copy(root / "flags.py", package / "flags.py")
        shutil.copyfile(root / "docs/runbook.md", package / "console/runbook.md")
        (package / "py.typed").touch()
        build_data["force_include"][str(package)] = PACKAGE

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """See hatchling."""
        shutil.rmtree(self._made)


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".py":
        to.write_text(renamed(file.read_text()))
    else:
        shutil.copyfile(file, to)


def renamed(source: str) -> str:
    """`source` with the import lines of the layer's own modules as the wheel has them."""
    lines = source.split("\n")
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, _IMPORTS)]
    for node in sorted(found, key=lambda node: node.lineno, reverse=True):
        new = _import(node)
        if new is None:
            continue
        end = node.end_lineno or node.lineno
        rest = lines[end - 1][node.end_col_offset :]
        lines[node.lineno - 1 : end] = [f"{' ' * node.col_offset}{new}{rest}"]
    return "\n".join(lines)


_IMPORTS = (ast.Import, ast.ImportFrom)


def _import(node: ast.Import | ast.ImportFrom) -> str | None:
    """The statement as it is in the wheel; None where it stays as it is."""
    if isinstance(node, ast.ImportFrom):
        if node.module == "app" and any(alias.name == PACKAGE for alias in node.names):
            return ast.unparse(ast.Import(node.names))
        module = None if node.level else _module(node.module or "")
        return None if module is None else ast.unparse(ast.ImportFrom(module, node.names, 0))
    said = []
    for alias in node.names:
        module = _module(alias.name)
        if module is None:
            said.append(f"import {ast.unparse(alias)}")
        elif alias.asname is None and "." not in alias.name:
            package, _, name = module.rpartition(".")
            said.append(f"from {package} import {name}")
        elif alias.asname is None:
            raise ValueError(f"line {node.lineno}: import {alias.name} as a name, or from it")
        else:
            said.append(f"import {module} as {alias.asname}")
    new = "; ".join(said)
    return None if new == ast.unparse(node) else new


def _module(name: str) -> str | None:
    for ours, theirs in MODULES.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name[len(ours) :]
    return None
