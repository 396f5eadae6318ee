"""ONNX Runtime's own reader of model packages: its C API, which the Python package does not wrap."""

import glob
import os
from ctypes import CDLL, CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_size_t, c_uint32, c_void_p, cast
from pathlib import Path

import onnxruntime

# Places in onnxruntime_c_api.h's tables, which only grow
OPTIONS, CONTEXT, VARIANTS, RESOLVE, SELECT, SELECTED, SESSION = 0, 2, 8, 10, 11, 13, 15  # of OrtModelPackageApi
MESSAGE, ENVIRONMENT, SESSION_OPTIONS, INPUTS, PACKAGES = 2, 3, 10, 30, 427  # of OrtApi


class _Base(Structure):
    _fields_ = [("api", CFUNCTYPE(c_void_p, c_uint32)), ("version", CFUNCTYPE(c_char_p))]


def _table(address: int):
    return cast(address, POINTER(c_void_p))


class ModelPackage:
    """An opened package; every call that fails raises RuntimeError with ONNX Runtime's message."""

    def __init__(self, folder: Path):
        (library,) = glob.glob(os.path.join(os.path.dirname(onnxruntime.__file__), "capi", "libonnxruntime.so.1.*"))
        get = CDLL(library).OrtGetApiBase
        get.restype = POINTER(_Base)
        self.ort = _table(get().contents.api(31))
        self.api = _table(CFUNCTYPE(c_void_p)(self.ort[PACKAGES])())
        self.environment = self._made(self.ort[ENVIRONMENT], (c_int, 2), (c_char_p, b"test"))
        self.context = self._made(self.api[CONTEXT], (c_char_p, str(folder).encode()))

    def _call(self, function: int, *arguments) -> None:
        kinds, values = zip(*arguments)
        if status := CFUNCTYPE(c_void_p, *kinds)(function)(*values):
            raise RuntimeError(CFUNCTYPE(c_char_p, c_void_p)(self.ort[MESSAGE])(status).decode())

    def _made(self, function: int, *arguments, kind=c_void_p):
        out = kind()
        self._call(function, *arguments, (POINTER(kind), byref(out)))
        return out

    def variants(self, component: str) -> list[str]:
        names, count = POINTER(c_char_p)(), c_size_t()
        out = [(POINTER(POINTER(c_char_p)), byref(names)), (POINTER(c_size_t), byref(count))]
        self._call(self.api[VARIANTS], (c_void_p, self.context), (c_char_p, component.encode()), *out)
        return [name.decode() for name in names[: count.value]]

    def resolved(self, reference: str) -> Path:
        given = [(c_void_p, self.context), (c_char_p, None), (c_char_p, reference.encode()), (c_int, 1)]
        return Path(self._made(self.api[RESOLVE], *given, kind=c_char_p).value.decode())

    def selected(self, component: str) -> tuple[str, int]:
        """The variant that ONNX Runtime chooses on this machine, and how many inputs a session of it has."""
        options = self._made(self.ort[SESSION_OPTIONS])
        intent = self._made(self.api[OPTIONS], (c_void_p, self.environment), (c_void_p, options))
        named = [(c_void_p, self.context), (c_char_p, component.encode()), (c_void_p, intent)]
        chosen = self._made(self.api[SELECT], *named)
        name = self._made(self.api[SELECTED], (c_void_p, chosen), kind=c_char_p)
        session = self._made(self.api[SESSION], (c_void_p, self.environment), (c_void_p, chosen), (c_void_p, None))
        inputs = self._made(self.ort[INPUTS], (c_void_p, session), kind=c_size_t)
        return name.value.decode(), inputs.value
