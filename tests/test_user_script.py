"""Scripts of the user's: what one may do, what goes with it, what its data becomes, what its mistakes are told as."""

import json
import socket
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from builder import Builder, verbs
from graphs import load_pass

from onnxmake.build import gates, metrics, paths, quality, results, scripts, settings, store
from onnxmake.build.digest import digest_file
from onnxmake.build.files import write_record
from onnxmake.build.plan import checkpoint_of, steps_of
from onnxmake.build.show import toml
from onnxmake.build.target import read_target
from onnxmake.errors import StepFailed, StoreError, TargetError
from onnxmake.model import calibration, figures, row_files, user_script
from onnxmake.model.rows import joined

NAME = "tiny-int4-cpu"
TINY = paths.TARGETS / "tiny"
HEAD = f'# x.\ndevice = "cpu"\n[source]\npath = "{TINY}"\n'
RUN = '[[pass]]\nuse = "run_script"\nscript = "mine.py"\noutput = "made.npz"\n'
REST = '[[pass]]\nuse = "export"\n[[pass]]\nuse = "optimize"\n'
READS = '[[pass]]\nuse = "quantize_gptq"\ncalibration = "script://made.npz"\nsamples = 0\n'
PACKS = '[[pass]]\nuse = "package_genai"\n'
DATA = """import numpy as np

from olive.data.registry import Registry
from helper import LENGTH


@Registry.register_dataset()
def ramp(count, other):
    assert other is None
    with open("numbers.txt") as file:
        start = int(file.read())
    return [({"input_ids": np.arange(start + n, start + n + LENGTH)}, n) for n in range(count)]


@Registry.register_dataloader("Pairs")
def pairs(dataset, **settings):
    for n in range(0, len(dataset), 2):
        yield [{"input_ids": np.stack([row["input_ids"] for row, _ in dataset[n : n + 2]])}, None]
"""


def beside(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """A script with what it needs; scripts run in this process, whose state is put back."""
    monkeypatch.setattr(user_script, "_cut_off", lambda: True)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    monkeypatch.setattr(user_script.olive_names.Registry, "_known", {k: {} for k in user_script.olive_names.KINDS})
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "script"
    folder.mkdir()
    return beside(folder, mine__py=DATA, helper__py="LENGTH = 8\n", numbers__txt="5") / "mine.py"


def made(script: Path, output: str = "made.npz", **options) -> Path:
    o = load_pass("run_script").Options("script/mine.py", output, **options)
    row_files.save(o, script, TINY, script.parents[1] / output)
    return script.parents[1] / output


def test_a_data_set_is_an_array_of_each_input(mine):
    with np.load(made(mine, load_dataset={"type": "Ramp", "count": 4})) as arrays:
        assert arrays.files == ["input_ids"] and arrays["input_ids"].dtype.kind == "i"
        assert arrays["input_ids"].tolist() == [[*range(5 + n, 13 + n)] for n in range(4)]


def test_a_dataloaders_batches_are_taken_apart_and_samples_are_a_limit(mine):
    options = {"load_dataset": {"type": "ramp", "count": 5}, "dataloader": {"type": "pairs"}}
    whole = np.load(made(mine, **options))["input_ids"]
    assert (
        whole.shape == (5, 8) and np.load(made(mine, **options, samples=3))["input_ids"].tolist() == whole[:3].tolist()
    )


def test_a_dataloader_func_of_an_older_workflow_is_called_by_itself(mine):
    mine.write_text("def load(data_dir, batch_size, *a, **k):\n    import numpy as np\n"
                    "    class Reader:\n        left = 2\n        def get_next(self):\n            self.left -= 1\n"
                    "            return {'x': np.ones((batch_size, 3)) * self.left} if self.left >= 0 else None\n    return Reader()\n")  # fmt: skip
    found = np.load(made(mine, dataloader={"type": "load", "data_dir": None, "batch_size": 2}))["x"]
    assert found.tolist() == [[1.0] * 3] * 2 + [[0.0] * 3] * 2


TEXTS = "def rows():\n    return [{'a': 'def f():', 'b': 'pass', 'n': 1}, {'a': 'import os', 'b': 'x', 'n': 2}]\n"


def test_texts_are_lines_rows_or_tokens(mine):
    mine.write_text(TEXTS)
    load = {"load_dataset": {"type": "rows"}}
    assert made(mine, "t.txt", **load).read_text() == "def f(): pass\nimport os x\n"
    assert made(mine, "t.txt", **load, columns=("b",)).read_text() == "pass\nx\n"
    rows = [json.loads(line) for line in made(mine, "t.jsonl", **load).read_text().splitlines()]
    assert rows == [{"a": "def f():", "b": "pass", "n": 1}, {"a": "import os", "b": "x", "n": 2}]
    padded = np.load(made(mine, **load, tokens=16))
    assert padded["input_ids"].shape == (2, 16) and set(padded["attention_mask"].sum(1)) < set(range(2, 16))
    packed = np.load(made(mine, **load, tokens=3, padded=False))
    assert packed.files == ["input_ids"] and packed["input_ids"].shape[1] == 3


def test_rows_of_other_lengths_are_filled_up_where_a_mask_says_so(mine):
    mine.write_text(
        "import numpy as np\ndef rows(m):\n    return [{'input_ids': np.arange(1, n), **({m: np.ones(n - 1)} if m else {})} for n in (3, 5)]\n"
    )
    found = np.load(made(mine, load_dataset={"type": "rows", "m": "attention_mask"}))
    assert found["input_ids"].tolist() == [[1, 2, 0, 0], [1, 2, 3, 4]] and found["attention_mask"].sum() == 6
    with pytest.raises(TargetError, match=r"input_ids is of 2 shapes, among them \(2,\) and \(4,\)"):
        made(mine, load_dataset={"type": "rows"})


def test_the_checkpoint_is_there_under_its_name(mine):
    mine.write_text(
        "def rows(name):\n    import os\n    return [{'t': n} for n in sorted(os.listdir(name)) if n == 'config.json']\n"
    )
    text = made(mine, "t.txt", model="some/tiny", load_dataset={"type": "rows", "name": "some/tiny"}).read_text()
    assert text == "config.json\n"


WRONG = [  # the script, what is asked of it, and what is told
    ("def rows():\n    return 1 / 0\n", {}, "mine.py, line 2: ZeroDivisionError: division by zero.", "Mend that line"),
    ("def rows(:\n", {}, "mine.py, line 1: SyntaxError: ", "Mend that line"),
    ("import nowhere\n", {}, "mine.py, line 1: ModuleNotFoundError: No module named 'nowhere'.", "containers/script/requirements.in"),
    ("from olive.passes import Pass\n", {}, "mine.py, line 1: ModuleNotFoundError: No module named 'olive.passes'.", "Use format_data of olive.common.utils"),
    ("def rows():\n    return open('gone.txt')\n", {}, "mine.py, line 2: FileNotFoundError", "beside the script, and name that"),
    ("from helper import gone\n", {}, "ImportError", "Do without it"),
    ("def rows():\n    raise ConnectionError('no hub')\n", {}, "line 2: ConnectionError: no hub.", "Save what it loads"),
    ("import sys\nsys.exit(3)\n", {}, "mine.py, line 2: SystemExit: 3.", "Mend that line"),
    ("def row():\n    pass\n", {}, "mine.py has no 'rows'.", "'row'"),
    ("def rows(a):\n    pass\n", {"b": 1}, "TypeError: rows() got an unexpected keyword argument 'b'.", "Mend"),
    ("def rows():\n    return [[1, 2, 3]]\n", {}, "sample 0 of its data is list, not values by the names", '({"NAME": values}, label)'),
    ("def rows():\n    return []\n", {}, "its data has no samples", "Look at what it reads"),
    ("def rows():\n    return [{'t': None}]\n", {}, "its data has no numbers, but t", '"NAME.txt"'),
]  # fmt: skip


@pytest.mark.parametrize("text, given, fact, action", WRONG, ids=[fact for _, _, fact, _ in WRONG])
def test_a_mistake_in_it_is_told_by_its_own_line(mine, text, given, fact, action):
    mine.write_text(text)
    with pytest.raises(TargetError) as error:
        made(mine, load_dataset={"type": "rows", **given})
    assert fact in error.value.fact and action in error.value.action
    assert "onnxmake/" not in str(error.value)


def test_olives_own_components_are_files_and_no_hub(mine):
    with pytest.raises(TargetError, match="is given no data") as error:
        made(mine, load_dataset={"data_name": "glue"})
    assert "Data sets of the hub are not fetched" in error.value.cause


def test_it_does_not_run_where_steps_are_not_cut_off(mine, monkeypatch):
    monkeypatch.undo()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setattr(user_script, "NOWHERE", probe.getsockname())
        with pytest.raises(StepFailed, match="mine.py is not run: this step can reach files and network") as error:
            made(mine, load_dataset={"type": "ramp"})
    assert "runner=docker" in error.value.action


def test_rows_of_tokens_calibrate_layers(mine):
    file = made(mine, load_dataset={"type": "ramp", "count": 4})
    assert calibration.windows(TINY, file, "", 2, 6).tolist() == [[*range(5, 11)], [*range(6, 12)]]
    assert len(calibration.windows(TINY, file, "", 0, 8)) == 4
    assert calibration.windows(TINY, file, "", 2, 256).shape == (2, 8)
    with pytest.raises(TargetError, match="holds 4 samples; 5 are asked for"):
        calibration.windows(TINY, file, "", 5, 8)
    rows = file.with_name("made.jsonl")
    rows.write_text('{"a": "one two three four", "b": "five six seven eight"}\n' * 9)
    assert len(calibration.windows(TINY, rows, "{a} {b}", 0, 8)) > 8
    np.savez(file, pixels=np.zeros((2, 3)))
    with pytest.raises(TargetError, match="holds no input_ids"):
        calibration.windows(TINY, file, "", 1, 2)
    value = ir.Value(name="pixels", shape=ir.Shape(["batch", 3]), type=ir.TensorType(ir.DataType.FLOAT))
    assert len([*calibration.calibration([value], mine.parents[1], "made.npz", "", 0, 0)]) == 2


def test_what_it_imports_and_names_goes_with_it_and_nothing_else(tmp_path):
    files = {
        "main.py": 'import a.b, json\nfrom c import x\nOPEN = ["data", "../up.txt", "/etc/passwd", "", ".", "out.txt"]\n',
        "a/__init__.py": "",
        "a/b.py": "from . import d\nfrom .e import f\n",
        "a/d.py": '"list.txt"',
        "a/e.py": "broken(",
        "a/list.txt": "1",
        "c.py": "",
        "words.txt": "w",
        "data/deep/rows.csv": "1",
    }
    for name, text in (files | {"unused.py": "", "a/unused.py": "", "other/far.txt": ""}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "out.txt").symlink_to("/etc/hostname")
    found = scripts.beside(tmp_path / "main.py", [{"files": ["words.txt", "out.txt"], "n": 3}])
    assert found == {f"script/{name}": tmp_path / name for name in sorted(files)}


def target(folder: Path, text: str) -> Path:
    beside(folder, mine__py=DATA, helper__py="LENGTH = 16\n", numbers__txt="5", x__toml=text)
    return folder / "x.toml"


def test_it_runs_by_a_word_of_the_users_own_only(tmp_path):
    file = target(tmp_path, HEAD + RUN + REST + PACKS)
    with pytest.raises(
        TargetError, match=r"\[\[pass\]\] 1 \(run_script\) runs .*mine.py, and no script is allowed"
    ) as error:
        read_target(file)
    assert "allow_scripts=true" in error.value.action and "without network" in error.value.cause
    with settings.given(allow_scripts="true"):
        assert {*read_target(file).passes[0].files} == {"script/mine.py", "script/helper.py", "script/numbers.txt"}
    with (
        settings.given(allow_scripts="yes"),
        pytest.raises(TargetError, match="allow_scripts=yes is none that there is"),
    ):
        read_target(file)
    file.write_text("allow_scripts = true\n" + HEAD + RUN + REST + PACKS)
    assert read_target(file).passes[0].options.script == "script/mine.py"


@pytest.mark.parametrize(
    "passes, fact",
    [
        (REST + READS, r"\[\[pass\]\] 3 \(quantize_gptq\): script://made.npz is made by no pass before it"),
        (RUN + RUN + REST, r"\[\[pass\]\] 2 \(run_script\): output = 'made.npz' is there already"),
        (RUN.replace(".npz", ".bin") + REST, "output = 'made.bin' is not the name of a .npz, .txt or .jsonl file"),
        (RUN.replace("made", "../made") + REST, "output = '../made.npz' is not the name"),
        (RUN.replace("mine.py", "numbers.txt") + REST, "script = 'numbers.txt' is no Python file"),
        (RUN.replace("mine", "gone") + REST, "script = 'gone.py' is no file"),
        (REST + RUN, r"\[\[pass\]\] 3 \(run_script\) works on the checkpoint, and .* 2 \(optimize\) comes before it"),
        (
            RUN + '[[pass]]\nuse = "import_adapter"\nweights = "script://made.npz"\nconfig = "numbers.txt"\n',
            "is no file",
        ),
        (RUN + REST + '[check]\ntext = "script://gone.txt"\n', r"\[check\]: script://gone.txt is made by no pass"),
    ],
)
def test_a_wrong_target_says_so(tmp_path, passes, fact):
    with pytest.raises(TargetError, match=fact):
        read_target(target(tmp_path, "allow_scripts = true\n" + HEAD + passes))


def test_what_is_shown_reads_as_the_same_target(tmp_path):
    settings_ = 'load_dataset = { type = "ramp", count = 4, names = ["a", "b"] }\n'
    text = '[check]\ntext = "script://made.npz"\n'
    read = read_target(
        target(tmp_path, "allow_scripts = true\n" + HEAD + RUN + settings_ + REST + READS + PACKS + text)
    )
    quantiser = read.passes[-2]
    assert quantiser.options.calibration == "checkpoint/made.npz" and quantiser.made == ("made.npz",)
    again = read_target(beside(tmp_path, y__toml=toml(read)) / "y.toml")
    assert again.passes == read.passes and again.check == read.check
    twins = scripts.without(quantiser)
    assert (twins.options.calibration, twins.options.samples, twins.made) == ("calibration.txt", scripts.SAMPLES, ())


def test_rows_of_a_script_are_read_as_rows_by_a_check(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    monkeypatch.setenv("ONNXMAKE_CACHE", str(tmp_path / "cache"))
    text = '[check]\ntext = "script://made.jsonl"\ntext_template = "{a}"\n'
    run = RUN.replace(".npz", ".jsonl")
    read = read_target(target(tmp_path, "allow_scripts = true\n" + HEAD + run + REST + PACKS + text))
    step, *_ = steps_of(read, checkpoint_of(read))
    with pytest.raises(StoreError):  # it has not run
        quality.text_of(read)
    rows = beside(tmp_path, made__jsonl='{"a": "one"}\n') / "made.jsonl"
    sha = digest_file(rows)
    store.put(rows, sha, store.local())
    write_record(step.manifest, {"key": "0", "files": {"made.jsonl": [sha, 13]}})
    assert quality.text_of(read).suffix == ".jsonl" and quality.text_key(read) == sha
    assert quality.text_name(read) == "script://made.jsonl"
    assert joined(quality.text_of(read), read.check.text_template, 1) == "one"


def test_a_build_runs_it_in_a_step_of_its_own_and_again_when_anything_of_it_changes(tmp_path):
    folder = tmp_path / "targets"
    folder.mkdir()
    load = 'load_dataset = { type = "ramp", count = 4 }\n'
    target(folder, HEAD + RUN + load + REST + '[[pass]]\nuse = "quantize_rtn"\n' + PACKS)
    builder = Builder(tmp_path / "out", settings={"ONNXMAKE_TARGETS": str(folder)})
    assert "and no script is allowed" in builder.fail("build:x")
    allowed = ("allow_scripts=true", "build:x")
    assert verbs(builder.run(*allowed))["run_script"] in ("ran", "restored") and verbs(builder.run(*allowed)) == {}
    (folder / "unrelated.txt").write_text("1")
    assert verbs(builder.run(*allowed)) == {}
    (folder / "helper.py").write_text("import os\nLENGTH = len(os.listdir('/home'))\n")
    printed = builder.fail(*allowed)
    assert "helper.py, line 2: FileNotFoundError" in printed and "Traceback" not in printed
    assert "inputs.script/helper.py" in builder.run("allow_scripts=true", "why", "build:x")


SCORE = """from olive.model import OliveModelHandler


def score(model: OliveModelHandler, device, execution_providers, scale, missing):
    assert (device, execution_providers, missing) == ("cpu", ["CPUExecutionProvider"], None)
    session = model.prepare_session(inference_settings=None, device=device, execution_providers=execution_providers)
    inputs = {"input_ids": [[1, 2, 3], [4, 5, 6]], "attention_mask": [[1, 1, 1]] * 2, "label": [0]}
    logits = model.run_session(session, inputs)[0]
    assert model.io_config["output_names"][0] == "logits" and logits.shape[::2] == (2, 4096)
    return {"rows": len(logits) * scale, "finite": float(abs(logits).max() < 1e4)}
"""
METRIC = '[[metric]]\nscript = "score.py"\nevaluate = "score"\nname = "mine"\narguments = { scale = 2 }\n'
LIMITS = "[check]\nlimits = { min_finite = 1, max_rows = 3 }\n"


def test_a_script_evaluates_what_is_built_and_its_figures_are_gates(delivered, tmp_path):
    shipped = (paths.TARGETS / f"{NAME}.toml").read_text().split("[check]")[0].replace('"tiny"', f'"{TINY}"')
    text = "allow_scripts = true\n" + shipped + METRIC + LIMITS
    file = beside(tmp_path, score__py=SCORE, **{f"{NAME}__toml": text}) / f"{NAME}.toml"
    read = read_target(file)
    found, steps = results.delivered(read), steps_of(read, checkpoint_of(read))
    assert "rows" not in quality.metrics(read, found)
    told = metrics.evaluate(read, steps)
    assert told == {"rows": 4.0, "finite": 1.0}
    quality.note(read, "scripts", quality.scripts_key(read, found), {"metrics": told})
    known = quality.metrics(read, results.delivered(read))
    assert known["rows"] == 4.0 and gates.missed(read.check, known) == ["max_rows"]
    assert ["rows", "4", "at most 3", "MISSED by 1"] in gates.rows(read.check, known)
    again = read_target(beside(tmp_path, y__toml=toml(read)) / "y.toml")
    assert again.metrics == read.metrics and again.check == read.check
    file.with_name("score.py").write_text(SCORE + "\n# another\n")
    assert "rows" not in quality.metrics(read, results.delivered(read))  # figures of another script


@pytest.mark.parametrize(
    "returned, fact",
    [
        ("1.5", None),
        ("np.float32(1.5)", None),
        ("'high'", "score gives 'high' as mine"),
        ("float('nan')", "score gives nan as mine"),
        ("{'a b': 1}", "score gives 1 as a b"),
        ("np.ones(2)", "as mine"),
        ("{}", "score gives no figure"),
    ],
)
def test_a_figure_is_a_finite_number(mine, monkeypatch, returned, fact):
    monkeypatch.setattr(figures, "Built", lambda file: None)
    mine.write_text(f"import numpy as np\ndef score(model):\n    return {returned}\n")
    o = load_pass("run_metric").Options("mine.py", "score", "mine")
    if fact is None:
        assert figures.evaluate(o, mine, TINY, TINY) == {"mine": 1.5}
        return
    with pytest.raises(TargetError, match=fact):
        figures.evaluate(o, mine, TINY, TINY)


@pytest.mark.parametrize(
    "text, fact",
    [
        (METRIC.replace("score.py", "score.txt"), "script = 'score.txt' is no Python file"),
        (METRIC.replace('"mine"', '"my figure"'), "name = 'my figure' is not of letters"),
        (METRIC + 'use = "export"\n', r"\[\[metric\]\] 1: unknown key 'use'"),
        (METRIC.replace("[[metric]]", '[[pass]]\nuse = "run_metric"'), r"\[\[pass\]\] 3 \(run_metric\) evaluates what is built"),
        ("[metric]\n", r"metric is not written as \[\[metric\]\]"),
        ("[check]\nlimits = { kind = 1 }\n", "limits: kind is not min_NAME or max_NAME"),
        ("[check]\nlimits = { max_kl = 1 }\n", "limits: max_kl is not min_NAME"),
    ],
)  # fmt: skip
def test_a_wrong_metric_says_so(tmp_path, text, fact):
    file = beside(tmp_path, score__py=SCORE, score__txt="", x__toml="allow_scripts = true\n" + HEAD + REST + text)
    with pytest.raises(TargetError, match=fact):
        read_target(file / "x.toml")


def test_a_metric_is_a_script_that_must_be_allowed(tmp_path):
    file = beside(tmp_path, score__py=SCORE, x__toml=HEAD + REST + METRIC)
    with pytest.raises(TargetError, match="runs .*score.py, and no script is allowed"):
        read_target(file / "x.toml")
