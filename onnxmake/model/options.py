"""What passes declare alike: files they read, options they take. Standard library only: the host reads it, too."""

from dataclasses import dataclass
from typing import Literal

Part = Literal["same", "int2", "int4", "int8", "keep"]  # "keep": not quantised
AccuracyLevel = Literal[0, 1, 2, 3, 4]  # of a product: 4 = int8 activations, 1 = float32, 0 = the runtime's choice
GRAPH_AND_WEIGHTS = (  # READS of a pass that computes with weights
    "model.onnx",
    "checkpoint/config.json",
    "checkpoint/model.safetensors.index.json?",
    "checkpoint/*.safetensors",
)
CALIBRATED = (*GRAPH_AND_WEIGHTS, "checkpoint/tokenizer.json?")  # of one that computes with a text, too
LISTS = {"int2": 2, "int4": 4, "int8": 8, "keep": 0}  # by name, as Part has them: bits


@dataclass(frozen=True)
class BlockOptions:
    """What the quantise passes take. Lists of globs name single weights, and win over all the rest."""

    bits: Literal[2, 4, 8] = 4  # 2 on CPUs only
    block_size: Literal[16, 32, 64, 128, 256] = 32  # values that share a scale
    symmetric: bool = True  # False: a zero point per block; a little better, a little larger
    lm_head: Part = "same"
    embeddings: Part = "same"  # "same": as a tied head, or else as bits
    experts: Part = "same"  # of mixtures; always symmetric
    accuracy_level: AccuracyLevel = 4
    int2: tuple[str, ...] = ()  # globs over modules as the checkpoint names them: "model.layers.*.mlp.down_proj"
    int4: tuple[str, ...] = ()
    int8: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()  # not quantised


@dataclass(frozen=True)
class CalibratedOptions(BlockOptions):
    """As for every block quantiser, and what is calibrated with."""

    # a text or rows beside the target, or hf://datasets/OWNER/NAME@COMMIT/FILE; "": the text that comes along
    calibration: str = ""
    text_template: str = ""  # of rows: "{question} {answer}"; "": the column text
    samples: int = 128
    tokens: int = 256  # of each sample
