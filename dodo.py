"""onnxmake: make for ONNX models. `doit list` shows the targets, `doit build:tiny-int4-cpu` builds one."""

from onnxmake.build import runs, tasks

DOIT_CONFIG = tasks.CONFIG
PLAN = tasks.load_plan()


def task__misnamed():
    """say what there is, where the command line names something else"""
    yield from runs.misnamed(PLAN)


def task__source():
    """checkpoint -> manifest of its files"""
    yield from tasks.sources(PLAN)


def task__inputs():
    """does the checkpoint hold what the steps need?"""
    yield from tasks.inputs(PLAN)


def task__step():
    """one pass on one input, shared by all targets that want it"""
    yield from tasks.steps(PLAN)


def task_build():
    """last step's files -> dist/<target>"""
    yield from tasks.builds(PLAN)


def task_show():
    """a target with what it takes over from another, and every default"""
    yield from runs.shows(PLAN)


def task_try():
    """generate text with a built target"""
    yield from runs.tries(PLAN)


def task_bench():
    """measure built targets"""
    yield from runs.benches(PLAN)


def task_bundle():
    """built target -> dist/bundles/<target>, to run on its device's machine"""
    yield from runs.bundles(PLAN)


def task_image():
    """build an environment's image: doit image:cpu, with base=REF ca=FILE network=host"""
    yield from runs.images()


def task_prebuilt():
    """export the shipped targets' graphs into targets/prebuilt"""
    return tasks.prebuilt_graphs()


def task_check():
    """a twin against Transformers, the built model against the unquantised one, and the target's gates"""
    yield from runs.checks(PLAN)


def task_release():
    """checked targets -> dist/releases/<name>-<version>, with version=V key=FILE.pem archive=yes"""
    yield from runs.releases(PLAN)


def task_publish():
    """a release -> registry, hub or folder, with to=oci://HOST/REPO|hf://OWNER/NAME|dir://PATH version=V go=yes"""
    yield from runs.publishes(PLAN)


def task_verify():
    """build a second time, elsewhere and without the store: is it the same?"""
    yield from runs.verifies(PLAN)


def task_search():
    """try a target's options: doit search:NAME, of targets with [search]"""
    yield from runs.searches(PLAN)


def task_support():
    """which architectures are proven right, and where"""
    return runs.support_table()


def task_sweep():
    """prove every architecture anew, into docs/support.md: doit sweep, or doit sweep:llama"""
    yield from runs.sweeps()
