"""What tests of releases share."""

from onnxmake.build import execute, quality, results
from onnxmake.build.plan import checkpoint_of, steps_of

METRICS = {"perplexity": 11.6, "perplexity_unquantised": 11.4, "perplexity_rise": 0.0175}
FOUND = {"metrics": METRICS | {"kl": 0.019, "kl_p99": 0.09, "top1": 0.92}, "counted": 8176, "of": "tokens"}


def checked_as_if(target):
    """A delivered target with its steps; twin and evaluation are answered as if they had been asked."""
    made, built = steps_of(target, checkpoint_of(target)), results.delivered(target)
    execute.make_source(made[0].checkpoint)
    quality.note(target, "twin", quality.twin_key(target, built), {"errors": [["prefill", 1e-6]]})
    quality.note(target, "evaluation", quality.evaluation_key(target, built), FOUND)
    return target, made
