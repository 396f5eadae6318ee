"""doit's memory of tasks: none beyond the run. Keys and manifests decide what is up to date, and each is written as its step ends."""

from typing import Any


class Memory:
    """What doit asks of a back-end, over a dictionary."""

    desc = "onnxmake: nothing is kept, keys decide"

    def __init__(self, name: str, codec: Any, *, module_name: str | None = None):
        self.name, self.codec = name, codec
        self._tasks: dict[str, dict[str, Any]] = {}

    def get(self, task: str, field: str) -> Any:
        return self._tasks[task].get(field) if task in self._tasks else None

    def set(self, task: str, field: str, value: Any) -> None:
        self._tasks.setdefault(task, {})[field] = value

    def in_(self, task: str) -> bool:
        return task in self._tasks

    def remove(self, task: str) -> None:
        self._tasks.pop(task, None)

    def remove_all(self) -> None:
        self._tasks.clear()

    def dump(self) -> None:
        pass
