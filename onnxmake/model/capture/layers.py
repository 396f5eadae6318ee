"""Which decoder layers are alike, and a model cut down to those that show the whole pattern."""

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

ALONE = 4  # a model of at most this many layers is traced whole
NOT_KIND = {"layer_idx", "training"}


def find_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList] | None:
    """Path and list of the layers: the first ModuleList as long as the config says the model is deep."""
    depth = getattr(model.config, "num_hidden_layers", None)
    return next(
        ((name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth), None
    )


def _per_layer(config: PreTrainedConfig) -> dict[str, list]:
    """Settings that the config gives layer by layer, such as layer_types."""
    depth = config.num_hidden_layers
    return {
        key: list(value)
        for key, value in vars(config).items()
        if isinstance(value, (list, tuple)) and len(value) == depth
    }


def kinds(config: PreTrainedConfig, layers: nn.ModuleList) -> list[int]:
    """For each layer the index of the first layer like it.

    Same modules, shapes, plain attributes and per-layer settings.
    """
    first: dict[tuple, int] = {}
    settings = _per_layer(config)
    out = []
    for i, layer in enumerate(layers):
        modules = tuple(
            (
                name,
                type(m).__name__,
                tuple(
                    (k, v)
                    for k, v in sorted(vars(m).items())
                    if k not in NOT_KIND and isinstance(v, (int, float, str, type(None)))
                ),
                tuple((k, tuple(p.shape)) for k, p in m._parameters.items() if p is not None),
            )
            for name, m in layer.named_modules()
        )
        out.append(first.setdefault((modules, repr([values[i] for values in settings.values()])), i))
    return out


def representatives(kind: list[int]) -> list[int]:
    """Layers to trace: two of each kind, so that stamping can be checked, or all where that saves nothing."""
    chosen = sorted(i for i, k in enumerate(kind) if kind[:i].count(k) < 2)
    return list(range(len(kind))) if len(kind) <= max(ALONE, len(chosen)) else chosen


def keep_layers(model: PreTrainedModel, path: str, layers: nn.ModuleList, kept: list[int]) -> None:
    """Cut `model` and its config down to the layers `kept`, in place. Layers keep their own layer_idx."""
    config = model.config
    for key, values in _per_layer(config).items():
        setattr(config, key, [values[i] for i in kept])
    config.num_hidden_layers = len(kept)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.ModuleList(layers[i] for i in kept))
