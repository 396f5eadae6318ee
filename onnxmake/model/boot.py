"""Start of a step's process, run as a script: cut off first, then code compiled from the very sources that its key names.

Python trusts bytecode beside a source by size and time; a source swapped for another of equal size and time would run as the
old one. Here bytecode is kept by the content that it was compiled from.
"""

import contextlib
import hashlib
import marshal
import os
import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType

ROOT = str(Path(__file__).resolve().parents[2])
OTHERWISE = {"container": "", "open": "ONNXMAKE_SANDBOX is off"}  # why this process does not cut itself off
COMPILED = os.environ.get("NUMBA_CACHE_DIR", "")  # beside the compiled kernels, which are kept in the same way


class Source(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path)
        name = hashlib.sha256(f"{sys.version}\n{self.path}\n".encode() + source).hexdigest()
        kept = f"{COMPILED}/{name}.code"
        with contextlib.suppress(OSError):
            data = self.get_data(kept)
            if hashlib.sha256(data[32:]).digest() == data[:32]:
                return marshal.loads(data[32:])
        code = self.source_to_code(source, self.path)
        data = marshal.dumps(code)
        with contextlib.suppress(OSError):  # a cache that cannot be written: compiled again next time
            fresh = f"{kept}.{os.getpid()}-{os.urandom(4).hex()}"
            Path(fresh).write_bytes(hashlib.sha256(data).digest() + data)
            os.replace(fresh, kept)
        return code


def _finder(folder: str) -> FileFinder:
    if folder != ROOT and not folder.startswith(f"{ROOT}/onnxmake"):
        raise ImportError(folder)
    return FileFinder(folder, (Source, SOURCE_SUFFIXES))


if __name__ == "__main__":
    sys.path_hooks.insert(0, _finder)
    sys.path_importer_cache.clear()
    from onnxmake.model import sandbox, step

    how, *ahead = sys.argv[1:]
    step.main(ahead, sandbox.enter() if how == "namespaces" else OTHERWISE[how])
