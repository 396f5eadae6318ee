"""The host side: targets, plan, store, environments, runner, doit tasks. Light imports only.

`onnxmake.build("tiny-int4-cpu")` is `onnxmake.api.build`: the package has the function's name, so it can be called.
"""

import sys
import types


class _Callable(types.ModuleType):
    def __call__(self, *arguments, **settings):
        from onnxmake import api

        return api.build(*arguments, **settings)


sys.modules[__name__].__class__ = _Callable
