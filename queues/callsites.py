"""Finds RQ in an app's source: imports, calls that enqueue, and the functions they name.

It reads the syntax only. Nothing is imported or changed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rq.utils import parse_timeout

from queues.signature import imports_of, literal, module_of

OURS = __package__ or ""
_LEFT_OUT = {"node_modules", "site-packages", "build", "dist", "migrations", "__pycache__"}
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_DROP_INS = {"rq.Queue", "rq.queue.Queue", "rq.decorators.job", "rq.job.Job"}
_BY_ID = f"Job.fetch(…) of {OURS}.Job, and its method: this finds no run"
_SCHEDULES = (
    "it writes into Redis itself, past the flag: give its schedule to the job, as `schedule=`"
)
_INSTEAD = {
    "rq_scheduler": f"{_SCHEDULES}, or enqueue with enqueue_at of {OURS}.Queue",
    "flask_rq2": f"set RQ_QUEUE_CLASS = '{OURS}.Queue' in the app's config",
    "flask_rq": f"make it use {OURS}.Queue as its queue class",
    "django_rq": f"make it use {OURS}.Queue as its queue class",
    "rq.requeue_job": _BY_ID,
    "rq.cancel_job": _BY_ID,
    "rq.job.requeue_job": _BY_ID,
    "rq.job.cancel_job": _BY_ID,
    "rq.command.send_stop_job_command": _BY_ID,
    "rq.registry": "it has RQ's own jobs alone: `flask switchyard runs list` has the runs",
    "rq.cron": _SCHEDULES,
}
"""What to do in place of modules and names that do not see runs, or start no run."""
DEFAULT_SECONDS = 180
"""RQ's timeout of a job whose call, decorator and queue give none."""
_FOREVER_SECONDS = 86_400
"""Stands for RQ's timeout -1, which is none: a job always has one."""
_FIRST = {"enqueue": 0, "enqueue_call": 0, "prepare_data": 0, "enqueue_in": 1, "enqueue_at": 1}
"""The methods of a Queue that enqueue, and the position of the function in their arguments."""


@dataclass(frozen=True, slots=True)
class Change:
    """A line that bypasses the flag until it is changed."""

    file: str
    line: int
    code: str
    do: str


@dataclass(slots=True)
class Task:
    """A function that is enqueued somewhere."""

    path: str
    queue: str | None = None
    attempts: int = 1
    gaps: tuple[float, ...] = ()
    """The intervals of its Retry, in seconds, where they are in the source."""
    timeout: float = 0
    """The longest that a call of it may take, in seconds. 0 where no source says so."""
    calls: list[str] = field(default_factory=list)
    """Where it is enqueued, as `file:line` and the method."""

    def called(
        self, queue: _Queue, options: Mapping[str | None, ast.expr], timeout: str = "timeout"
    ) -> None:
        """Note the options of one call site, `timeout` being the name of one. The longest timeout
        counts, and the most patient Retry(max, interval), whose intervals RQ uses as a job uses its
        gaps."""
        self.queue = self.queue or queue.name
        self.timeout = max(self.timeout, _seconds(options.get(timeout), queue.timeout))
        retry = options.get("retry")
        if not isinstance(retry, ast.Call):
            return
        given = dict(zip(("max", "interval"), retry.args, strict=False))
        given |= {word.arg: word.value for word in retry.keywords if word.arg}
        most, interval = literal(given.get("max")), literal(given.get("interval"))
        if isinstance(most, int) and most + 1 > self.attempts:
            gaps = interval if isinstance(interval, list | tuple) else [interval]
            known = all(isinstance(gap, int | float) for gap in gaps)
            self.attempts, self.gaps = most + 1, tuple(gaps) if known else ()


@dataclass(frozen=True, slots=True)
class _Queue:
    name: str | None = None
    timeout: float = DEFAULT_SECONDS
    """In seconds, of jobs that are enqueued without one."""


class Sources:
    """The Python files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.changes: list[Change] = []
        self.tasks: dict[str, Task] = {}
        self.unreadable: list[str] = []
        self.queues: dict[str, _Queue] = {}
        """The queues that its modules make, by their dotted paths."""
        files = []
        self.tops = {at.stem for root in (folder, folder / "src") for at in root.glob("*")}
        for path in sorted(_files(folder)):
            with self._reading(inner := path.relative_to(folder)):
                files.append((inner, _File(self, inner, ast.parse(path.read_bytes()))))
        for inner, file in files:
            with self._reading(inner):
                file.read()
        self.unreadable.sort()

    @contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
            self.unreadable.append(str(path))

    def task(self, path: str) -> Task:
        """The task with that path."""
        return self.tasks.setdefault(path, Task(path))


def _files(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name.startswith(".") or entry.name in _LEFT_OUT:
            continue
        if entry.is_dir() and not entry.is_symlink() and not (entry / "pyvenv.cfg").exists():
            yield from _files(entry)
        elif entry.suffix == ".py":
            yield entry


class _File:
    def __init__(self, sources: Sources, path: Path, tree: ast.Module) -> None:
        self._sources, self._path = sources, path
        parts = path.with_suffix("").parts
        parts = parts[1:] if parts[0] == "src" and len(parts) > 1 else parts
        is_package = parts[-1] == "__init__"
        self._module = ".".join(parts[:-1] if is_package else parts)
        self._package = self._module if is_package else self._module.rpartition(".")[0]
        self._nodes = list(ast.walk(tree))
        paths = imports_of(self._nodes, self._package)
        self._names = {name: path.replace(":", ".") for name, path in paths.items()}
        """The dotted path behind each imported name."""
        self._functions = {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        for node in self._nodes:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                self._queue_made(node.targets, node.value)

    def read(self) -> None:
        for node in self._nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self._named(node, alias.name)
            elif isinstance(node, ast.ImportFrom):
                self._import_from(node)
        for node in self._nodes:
            if isinstance(node, ast.Call):
                self._call(node)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for decorator in node.decorator_list:
                    self._decorated(node, decorator)

    def _import_from(self, node: ast.ImportFrom) -> None:
        module = module_of(node, self._package)
        paths = [f"{module}.{alias.name}" for alias in node.names]
        names = [path.rpartition(".")[2] for path in paths if path in _DROP_INS]
        if names:
            self._change(node, f"from {OURS} import {', '.join(names)}")
        self._named(node, *paths, module)

    def _named(self, node: ast.stmt, *paths: str) -> None:
        known = (_INSTEAD.get(name) for path in paths for name in (path, path.partition(".")[0]))
        for do in dict.fromkeys(filter(None, known)):
            self._change(node, do)

    def _change(self, node: ast.stmt | ast.expr, do: str) -> None:
        code = ast.unparse(node).partition("\n")[0]
        self._sources.changes.append(Change(str(self._path), node.lineno, code, do))

    def _path_of(self, node: ast.expr) -> str | None:
        """The dotted path behind an expression, as far as the source tells."""
        if isinstance(node, ast.Constant):
            is_path = isinstance(node.value, str) and _PATH.fullmatch(node.value)
            return str(node.value) if is_path else None
        if isinstance(node, ast.Name):
            if node.id in self._functions:
                return f"{self._module}.{node.id}"
            return self._names.get(node.id)
        if isinstance(node, ast.Attribute):
            whole = self._path_of(node.value)
            return None if whole is None else f"{whole}.{node.attr}"
        return None

    def _queue_made(self, targets: list[ast.expr], call: ast.Call) -> None:
        made = self._path_of(call.func) or ""
        name = _text(call.args[0]) if call.args else None
        if made.rpartition(".")[2] == "Queue" and name is not None:
            given = next((w.value for w in call.keywords if w.arg == "default_timeout"), None)
            for target in targets:
                path = f"{self._module}.{ast.unparse(target)}"
                self._sources.queues[path] = _Queue(name, _seconds(given, DEFAULT_SECONDS))

    def _call(self, node: ast.Call) -> None:
        if not isinstance(node.func, ast.Attribute):
            return
        method, on = node.func.attr, node.func.value
        called = self._path_of(node.func) or ""
        if called in _DROP_INS:
            self._change(node, f"{OURS}.{method}(…)")
        elif called in _INSTEAD:
            self._change(node, _INSTEAD[called])
        if method == "delay" and called.partition(".")[0] in self._sources.tops:
            self._task(self._path_of(on), node, method)
        elif method in _FIRST:
            options = {word.arg: word.value for word in node.keywords}
            place = _FIRST[method]
            named = options.get("func", options.get("f"))
            function = node.args[place] if len(node.args) > place else named
            if function is not None and (task := self._task(self._path_of(function), node, method)):
                is_call = method in ("enqueue_call", "prepare_data")
                task.called(self._queue_of(on), options, "timeout" if is_call else "job_timeout")

    def _queue_of(self, node: ast.expr) -> _Queue:
        if isinstance(node, ast.Call) and node.args:
            return _Queue(_text(node.args[0]))
        of_another = self._path_of(node)
        own = f"{self._module}.{ast.unparse(node)}"
        queues = self._sources.queues
        return queues.get(own) or queues.get(of_another or "") or _Queue(_text(node))

    def _task(self, path: str | None, node: ast.Call, how: str) -> Task | None:
        """The task with that path, which `node` enqueues."""
        if path is None or "." not in path:
            return None
        task = self._sources.task(path)
        task.calls.append(f"{self._path}:{node.lineno} {how}")
        return task

    def _decorated(self, node: ast.FunctionDef | ast.AsyncFunctionDef, decorator: ast.expr) -> None:
        if not isinstance(decorator, ast.Call) or node.name not in self._functions:
            return
        name = ast.unparse(decorator.func)
        path = self._path_of(decorator.func) or ""
        # Apps call Flask-RQ2's object `rq`.
        if path not in ("rq.decorators.job", f"{OURS}.job") and not name.endswith("rq.job"):
            return
        options = {word.arg: word.value for word in decorator.keywords}
        first = decorator.args[0] if decorator.args else options.get("queue")
        task = self._task(f"{self._module}.{node.name}", decorator, f"@{name}")
        if task is not None:
            task.called(_Queue() if first is None else self._queue_of(first), options)


def _seconds(given: ast.expr | None, default: float) -> float:
    """A timeout as the source has it; the default where it has none, or none that can be read."""
    try:
        seconds = parse_timeout(literal(given)) or default
    except (ValueError, TypeError, AttributeError):
        return default
    return seconds if seconds > 0 else _FOREVER_SECONDS


def _text(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
