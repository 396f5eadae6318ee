"""Target files: what is read from a right one, and what each wrong one is told."""

import dataclasses
import os

import pytest

from onnxmake.build import paths, show
from onnxmake.build.target import Bench, Source, Target, read_target, read_targets
from onnxmake.errors import TargetError

COMMIT = "7ae557604adf67be50417f59c2c2f167def9a775"
REPO = f'[source]\nrepo = "owner/model"\nrevision = "{COMMIT}"'
EXPORT, PACKAGE = (f'[[pass]]\nuse = "{name}"' for name in ("export", "package_genai"))
PARTS = {
    "device": 'device = "cpu"',
    "source": REPO,
    "pass": '[[pass]]\nuse = "export"\n[[pass]]\nuse = "quantize_rtn"\nbits = 8\nblock_size = 64\n[[pass]]\nuse = "package_genai"',
    "bench": "[bench]\nprompt_tokens = [16]\nnew_tokens = 8",
}


def write(folder, name="mine.toml", **changed):
    file = folder / name
    file.write_text("\n".join(["# A target of the tests.", *(PARTS | changed).values()]), "utf-8")
    return file


def quantize(*lines: str) -> str:
    return "\n".join(['[[pass]]\nuse = "quantize_rtn"', *lines])


def test_a_right_file_is_read_with_its_comment_and_with_defaults_filled_in(tmp_path):
    target = read_target(write(tmp_path))
    assert (target.name, target.device, target.description) == ("mine", "cpu", "A target of the tests.")
    assert target.source == Source("owner/model", COMMIT)
    assert [use.declaration.name for use in target.passes] == ["export", "quantize_rtn", "package_genai"]
    assert [use.may_skip for use in target.passes] == [False] * 3
    options = target.passes[1].options
    assert (options.bits, options.block_size, options.symmetric) == (8, 64, True)
    assert target.bench == Bench((16,), 8, 5)


def test_a_line_for_an_editor_is_not_the_description(tmp_path):
    file = write(tmp_path)
    file.write_text("#:schema ../build/target.schema.json\n" + file.read_text())
    assert read_target(file).description == "A target of the tests."


def test_bench_may_be_left_out(tmp_path):
    assert read_target(write(tmp_path, bench="")).bench == Bench()


def test_a_pass_that_asks_for_the_device_gets_the_target_s_unless_it_names_another(tmp_path):
    passes = (
        '[[pass]]\nuse = "export"\n[[pass]]\nuse = "optimize"\n[[pass]]\nuse = "optimize"\ndevice = "portable"\nmay_skip = true\n'
        + PACKAGE
    )
    _, first, second, _ = read_target(write(tmp_path, **{"pass": passes})).passes
    assert (first.options.device, second.options.device) == ("cpu", "portable")
    assert (first.may_skip, second.may_skip) == (False, True)


@pytest.mark.parametrize(
    "changed, key, expected, advice",
    [
        ({"device": 'device = "cpu"\nsorce = 1'}, "'sorce'", "unknown key", "'source'"),
        ({"device": 'device = "cpo"'}, "device = 'cpo'", "one of 'cpu'", "'cpu'"),
        ({"device": "device = 1"}, "device", 'written as device = "cpu"', 'Write device = "cpu"'),
        ({"device": ""}, "'device'", "missing", "one of 'cpu'"),
        ({"source": ""}, "source", "missing", "repo and revision, or path"),
        ({"source": "[source]"}, "source", "missing", "repo and revision, or path"),
        ({"source": 'source = "tiny"'}, "source", "written as [source]", "Write [source]"),
        ({"source": f'[source]\nrevision = "{COMMIT}"'}, "[source]", "either repo and revision, or path", "Change"),
        ({"source": REPO + '\npath = "tiny"'}, "[source]", "either repo and revision, or path", "Change"),
        ({"source": f'[source]\npath = "tiny"\nrevision = "{COMMIT}"'}, "revision", "goes with repo", "Change"),
        (
            {"source": '[source]\nrepo = "owner/model"\nrevision = "main"'},
            "revision = 'main'",
            "commit of 40 hex digits",
            "Change",
        ),
        (
            {"source": '[source]\nrepo = "owner/model"\nrevision = "7ae5576"'},
            "revision = '7ae5576'",
            "commit of 40 hex digits",
            "Change",
        ),
        ({"source": REPO.replace(COMMIT, COMMIT + "0")}, "revision", "commit of 40 hex digits", "Change"),
        ({"source": '[source]\nrepo = "owner/model"'}, "revision", "commit of 40 hex digits", "Change"),
        ({"source": REPO.replace("repo", "rope")}, "'rope'", "unknown key", "'repo'"),
        ({"source": REPO.replace('"owner/model"', "7")}, "repo = 7", "a string", "Write a string"),
        ({"pass": ""}, "pass", "missing", "[[pass]]"),
        ({"pass": "", "device": 'device = "cpu"\npass = []'}, "pass", "missing", "[[pass]]"),
        ({"pass": "", "device": 'device = "cpu"\npass = ["export"]'}, "pass", "written as [[pass]]", "Write [[pass]]"),
        ({"pass": '[pass]\nuse = "export"'}, "pass", "written as [[pass]]", "Write [[pass]]"),
        ({"pass": "[[pass]]\nbits = 4"}, "[[pass]] 1", 'use = "..."', "Add use"),
        ({"pass": '[[pass]]\nuse = "quantise_rtn"'}, "[[pass]] 1", "no pass is named 'quantise_rtn'", "'quantize_rtn'"),
        ({"pass": '[[pass]]\nuse = "zzz"'}, "[[pass]] 1", "no pass is named 'zzz'", "export"),
        ({"pass": quantize("blok_size = 32")}, "'blok_size'", "unknown key", "'block_size'"),
        ({"pass": quantize('block_size = "32"')}, "block_size = '32'", "one of 16, 32", "Write one of 16, 32"),
        ({"pass": quantize("bits = 5")}, "bits = 5", "one of 2, 4, 8", "Write one of 2, 4, 8"),
        ({"pass": quantize("bits = 4.0")}, "bits = 4.0", "one of 2, 4, 8", "Write one of 2, 4, 8"),
        ({"pass": quantize("symmetric = 1")}, "symmetric = 1", "true or false", "Write true or false"),
        ({"pass": quantize('lm_head = "int44"')}, "lm_head = 'int44'", "one of 'same'", "'int4'"),
        ({"pass": quantize('may_skip = "yes"')}, "may_skip of [[pass]] 1", "true or false", "may_skip = true"),
        ({"bench": "[bench]\nprompt_tokens = [0]"}, "prompt_tokens", "at least 1", "Change"),
        ({"bench": "[bench]\nprompt_tokens = []"}, "prompt_tokens", "at least 1", "Change"),
        ({"bench": "[bench]\nprompt_tokens = 32"}, "prompt_tokens = 32", "a list, each a whole number", "Write a list"),
        ({"bench": "[bench]\nnew_tokens = true"}, "new_tokens = True", "a whole number", "Write a whole number"),
        ({"bench": "[[bench]]"}, "bench", "written as [bench]", "Write [bench]"),
        ({"device": 'device = "cpu'}, "mine.toml", "is not TOML", "Mend that line"),
    ],
)
def test_a_wrong_file_is_told_file_key_what_was_expected_and_what_to_do(tmp_path, changed, key, expected, advice):
    with pytest.raises(TargetError) as caught:
        read_target(write(tmp_path, **changed))
    error = caught.value
    assert "mine.toml" in error.fact
    assert key in error.fact
    assert expected in error.fact + error.action
    assert advice in error.action
    assert error.cause


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("", ("cpu", "owner/model", 3, (16,))),
        ('device = "cuda"', ("cuda", "owner/model", 3, (16,))),
        ("[bench]\nnew_tokens = 3", ("cpu", "owner/model", 3, (32, 256))),  # a table is taken over whole or not at all
        (f"{EXPORT}\n{PACKAGE}", ("cpu", "owner/model", 2, (16,))),
        (REPO.replace("owner", "another"), ("cpu", "another/model", 3, (16,))),
    ],
)
def test_a_target_like_another_is_the_other_but_for_its_own_keys(tmp_path, own, expected):
    write(tmp_path)
    (tmp_path / "twin.toml").write_text(f'# Its own comment.\nlike = "mine"\n{own}')
    target = read_target(tmp_path / "twin.toml")
    assert (target.device, target.source.repo, len(target.passes), target.bench.prompt_tokens) == expected
    assert (target.name, target.description) == ("twin", "Its own comment.")


def test_a_target_may_be_like_one_of_another_folder_whose_checkpoint_stays_where_it_is(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    write(tmp_path / "first", source='[source]\npath = "here"')
    (tmp_path / "second" / "other.toml").write_text('like = "mine"')
    other = read_targets([tmp_path / "first", tmp_path / "second"])["other"]
    assert (other.file.parent / other.source.path).resolve() == tmp_path / "first" / "here"
    assert read_target(tmp_path / "first" / "mine.toml").source.path == "here"


@pytest.mark.parametrize(
    ("like", "expected", "advice"),
    [
        ('"mane"', "like = 'mane' is not the name of another target", "'mine'"),
        ('"wrong"', "like = 'wrong' is not the name of another target", "Valid: first, mine"),
        ("1", "like = 1 is not the name of another target", "Valid: first, mine"),
        (
            '"first"',
            "first, which it is like, is itself like mine",
            'like = "mine", and what first writes itself: bench',
        ),
    ],
)
def test_a_wrong_like_is_told_what_would_be_right(tmp_path, like, expected, advice):
    write(tmp_path)
    (tmp_path / "first.toml").write_text('like = "mine"\n[bench]\nnew_tokens = 3')
    (tmp_path / "wrong.toml").write_text(f"like = {like}")
    with pytest.raises(TargetError) as caught:
        read_target(tmp_path / "wrong.toml")
    assert "wrong.toml" in caught.value.fact and expected in caught.value.fact and advice in caught.value.action
    assert "one level deep" in caught.value.cause


def test_a_mistake_in_what_a_target_is_like_is_an_error_of_both(tmp_path):
    write(tmp_path, "bad.toml", device='device = "gpu"')
    (tmp_path / "twin.toml").write_text('like = "bad"')
    (tmp_path / "fine.toml").write_text('like = "bad"\ndevice = "cpu"')
    found = read_targets([tmp_path])
    assert isinstance(found["bad"], TargetError) and isinstance(found["twin"], TargetError)
    assert isinstance(found["fine"], Target)


@pytest.mark.parametrize(
    ("names", "said", "advice"),
    [
        (("export", "optimize"), "no pass packages the model", "package_onnx"),
        (("export",), "no pass packages the model", "package_genai"),
        (("export", "upgrade_opset"), "no pass packages the model", "package_genai"),
        (("export", "package_genai", "package_onnx"), "3 (package_onnx) packages a graph, as [[pass]] 2", "Leave one"),
        (
            ("export", "export", "package_genai"),
            "2 (export) makes a graph of the checkpoint, as [[pass]] 1",
            "Leave one",
        ),
        (("export", "package_genai", "optimize"), "3 (optimize) works on a graph whose weights", "above [[pass]] 2"),
        (
            ("export", "optimize", "finetune", "package_genai"),
            "3 (finetune) works on the checkpoint",
            "above [[pass]] 2",
        ),
        (("export", "upgrade_opset", "package_genai"), "3 (package_genai) packages a graph, and [[pass]] 2", "above"),
    ],
)
def test_passes_that_are_out_of_order_are_told_before_any_of_them_runs(tmp_path, names, said, advice):
    (tmp_path / "words.txt").write_text("some text")
    more = {"finetune": 'data = "words.txt"\n', "upgrade_opset": "opset = 22\n"}
    blocks = "".join(f'[[pass]]\nuse = "{name}"\n{more.get(name, "")}' for name in names)
    with pytest.raises(TargetError) as caught:
        read_target(write(tmp_path, **{"pass": blocks}))
    assert said in caught.value.fact and advice in caught.value.action and caught.value.cause


@pytest.mark.parametrize("between", [("surgery", "package_onnx"), ("package_onnx", "surgery")])
def test_a_surgery_is_of_a_graph_or_of_a_package(tmp_path, between):
    named = {"surgery": 'name = "erf_to_tanh"\n'}
    blocks = "".join(f'[[pass]]\nuse = "{name}"\n{named.get(name, "")}' for name in ("export", *between))
    assert [use.declaration.name for use in read_target(write(tmp_path, **{"pass": blocks})).passes][1:] == [*between]


@pytest.mark.parametrize("name", ["releases", "bundles", ".tmp", "a=b", "a:b", "-x", "a*", "v1.release"])
def test_a_name_that_dist_or_a_command_line_has_otherwise_is_none(tmp_path, name):
    with pytest.raises(TargetError, match="cannot be the name of a target"):
        read_target(write(tmp_path), name=name)


@pytest.mark.parametrize("name", ["x", "größe", "two words", "qwen2.5-0.5b_int4+x"])
def test_other_names_are_as_good(tmp_path, name):
    assert read_target(write(tmp_path, f"{name}.toml")).name == name


def test_what_is_no_file_in_a_targets_folder_is_no_target(tmp_path):
    write(tmp_path)
    for name in ("folder.toml", "folder.json"):
        (tmp_path / name).mkdir()
    for name in ("dead.toml", "dead.json"):
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    assert [*read_targets([tmp_path])] == ["mine"]


def test_what_show_prints_reads_as_the_same_target(tmp_path):
    (tmp_path / "texts").symlink_to(paths.TEXTS)
    for name, target in read_targets([paths.TARGETS]).items():
        file = tmp_path / f"{name}.toml"
        file.write_text(show.toml(target), "utf-8")
        assert dataclasses.replace(read_target(file), file=target.file) == target


def test_a_broken_file_stands_as_its_error_beside_the_others(tmp_path):
    write(tmp_path, "good.toml")
    write(tmp_path, "bad.toml", device="device")
    (tmp_path / "binary.toml").write_bytes(b"# \xff\xfe\x00")
    found = read_targets([tmp_path])
    assert sorted(found) == ["bad", "binary", "good"]
    assert isinstance(found["good"], Target)
    for name in ("bad", "binary"):
        assert isinstance(found[name], TargetError)
        assert f"{name}.toml" in found[name].fact


def test_of_two_folders_the_later_wins(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    assert read_targets([tmp_path / "first", tmp_path / "second"])["mine"].file == tmp_path / "second" / "mine.toml"


def test_folders_of_the_environment_variable_come_after_the_checkout_s(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXMAKE_TARGETS", f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}")
    assert paths.target_folders() == [paths.TARGETS, tmp_path / "a", tmp_path / "b"]
    monkeypatch.delenv("ONNXMAKE_TARGETS")
    assert paths.target_folders() == [paths.TARGETS]


def test_a_targets_folder_that_does_not_exist_is_an_error_that_names_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXMAKE_TARGETS", str(tmp_path / "nowhere"))
    with pytest.raises(TargetError, match="nowhere does not exist") as caught:
        read_targets(paths.target_folders())
    assert "ONNXMAKE_TARGETS" in caught.value.cause
    assert "ONNXMAKE_TARGETS" in caught.value.action


def test_every_shipped_target_reads_and_says_what_it_is():
    found = read_targets([paths.TARGETS])
    files = {file.stem for file in paths.TARGETS.glob("*.toml") if not file.name.endswith(".release.toml")}
    assert set(found) == files >= {"tiny-int4-cpu", "qwen-int4-cpu"}
    for target in found.values():
        assert isinstance(target, Target), target
        assert target.description
        assert next(use for use in target.passes if not use.declaration.tunes).declaration.name == "export"
        assert target.source.path is None or (target.file.parent / target.source.path / "config.json").is_file()


def calibrated(folder, file: str, text: str = "some text"):
    """A target in `folder` whose second pass is calibrated with `file`, which holds `text`; returns the target's file."""
    folder.mkdir(exist_ok=True)
    (folder / "words.txt").write_text(text)
    own = f'[[pass]]\nuse = "export"\n[[pass]]\nuse = "quantize_static"\ncalibration = "{file}"\n{PACKAGE}'
    return write(folder, **{"pass": own})


def test_a_calibration_file_is_relative_to_the_target_and_the_step_sees_its_staged_name(tmp_path):
    first, second, _ = read_target(calibrated(tmp_path, "words.txt")).passes
    assert (first.files, second.files) == ({}, {"calibration.txt": tmp_path / "words.txt"})
    assert (second.options.calibration, second.options.samples) == ("calibration.txt", 32)
    assert [*read_target(calibrated(tmp_path, "")).passes[1].files.values()] == [paths.TEXTS / "calibration.txt"]


def test_a_missing_calibration_file_is_an_error_of_the_target(tmp_path):
    with pytest.raises(
        TargetError, match=r"(?s)mine.toml: \[\[pass\]\] 2 \(quantize_static\): calibration = 'wards.txt' is no file"
    ):
        read_target(calibrated(tmp_path, "wards.txt"))


def test_a_target_like_one_of_another_folder_is_calibrated_with_the_same_file(tmp_path):
    calibrated(tmp_path / "first", "words.txt")
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "other.toml").write_text('like = "mine"')
    other = read_targets([tmp_path / "first", tmp_path / "second"])["other"]
    assert [*other.passes[1].files.values()] == [tmp_path / "first" / "words.txt"]
