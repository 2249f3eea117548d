"""The documentation: its Python runs, its commands parse, and the links and names of files in it are right."""

from __future__ import annotations

import itertools
import re
import runpy
import shlex
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from test_imports import ROOMS

DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(
        [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("pretrained/*/*.md")]
        + [*ROOT.glob("recipes/*.md"), *ROOT.glob("export/*.md"), *ROOT.glob("examples/**/*.md")]
    )
}
HISTORY = ("pretrained/nano/TRAINING.md", "CHANGELOG.md")
"""Pages about former versions, whose commands need not exist today."""
LM_STAND_INS = {"XiaomiMiMo/MiMo-Audio-7B-Instruct": str(ROOT / "tests/golden/lm_base")}
LM_STAND_INS["XiaomiMiMo/MiMo-Audio-Tokenizer"] = "nano"
"""Released model -> what takes its place in the tests: a small model of random weights, and the shipped codec."""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def python_pages() -> list[str]:
    return [name for name, text in PAGES.items() if blocks(text, "python")]


RunPage = Callable[[str], dict[str, Any]]


@pytest.fixture
def run_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPage:
    """Run the Python of a page, all blocks in one, in a folder with nothing but examples/; return its variables."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(name: str) -> dict[str, Any]:
        code = "\n".join(blocks(PAGES[name], "python"))
        for released, stand_in in LM_STAND_INS.items():
            code = code.replace(f'"{released}"', repr(stand_in))
        found: dict[str, Any] = {"__name__": "page"}
        exec(compile(code, name, "exec"), found)
        return found

    return run


OWN_TESTS = ("README.md", "docs/language-model.md", "docs/onnx.md", "docs/own-classes.md")


@pytest.mark.parametrize("name", [name for name in python_pages() if name not in OWN_TESTS])
def test_python_runs(name, run_page):
    run_page(name)


def test_python_of_the_readme_writes_what_it_says(run_page, tmp_path):
    found = run_page("README.md")
    assert (tmp_path / "decoded.wav").stat().st_size > 0
    assert (tmp_path / "speech.mimo").stat().st_size < 200 + 12 * 1550 / 8
    assert len(found["coarse"]) == len(found["waveform"])


def test_python_of_the_language_model_runs(run_page, capsys):
    pytest.importorskip("transformers", reason="needs the lm extra")
    found = run_page("docs/language-model.md")
    assert len(found["answers"]) == 2 and found["predictions"].audio_logits and capsys.readouterr().out.strip()


def test_python_of_onnx_runs(run_page, request, tmp_path):
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="needs the onnx extra")
    (tmp_path / "nano-onnx").symlink_to(request.getfixturevalue("tiny_onnx"))
    found = run_page("docs/onnx.md")
    assert len(found["waveform"]) == found["codes"].num_samples
    assert type(found["exported"]) is type(found["codec"]) is not type(found["trained"])


def test_the_readme_is_short():
    assert len(PAGES["README.md"].split()) <= 900


# ---- commands --------------------------------------------------------------------------------------------------------


def shell_commands(text: str) -> Iterator[list[str]]:
    """The commands in bash blocks as words; variables that a block sets are filled in."""
    for block in blocks(text, "bash"):
        block = block.replace("\\\n", " ")
        for variable, value in re.findall(r'^(\w+)="([^"]*)"$', block, re.M):
            block = block.replace(f"${variable}", value)
        for line in block.splitlines():
            for part in line.split(" && "):
                if words := shlex.split(part, comments=True):
                    yield words


def commands_of(program: str) -> list[Any]:
    """(page, arguments) of every call of a program, as parameters."""
    return [
        pytest.param(words[1:], id=f"{name}: {' '.join(words[1:])}")
        for name, text in PAGES.items()
        if name not in HISTORY
        for words in shell_commands(text)
        if Path(words[0]).name == program
    ]


@pytest.mark.parametrize("arguments", commands_of("mimo-codec"))
def test_commands_parse(arguments, tmp_path, monkeypatch):
    from typer.main import get_command

    from mimo_codec.cli.main import app

    monkeypatch.chdir(tmp_path)
    for before, word in itertools.pairwise(arguments):
        if before != "-o" and word in ("talk.flac", "sample.wav"):  # some options read their file at once
            shutil.copy(ROOT / "examples" / "speech.wav", word)
    command, arguments = get_command(app), list(arguments)
    while arguments and arguments[0] in getattr(command, "commands", {}):
        command = command.commands[arguments.pop(0)]
    if "--help" not in arguments:
        command.make_context("mimo-codec", arguments)  # raises for what the command does not take


def train_overrides() -> list[Any]:
    """(recipe, arguments) of the documented calls of `train`, and of the options in the text beside them."""
    calls = [(c.values[0][1], c.values[0][2:]) for c in commands_of("mimo-codec") if c.values[0][:1] == ["train"]]
    text = PAGES["docs/training.md"] + PAGES["docs/training-data.md"]
    inline = re.findall(r"`(--(?:data|model|trainer)\.[^`]* [^`]+)`", text)
    calls += [("nano_stage1", shlex.split(" ".join(option.split()))) for option in inline if ".trained" not in option]
    return [pytest.param(recipe, arguments, id=f"{recipe} {' '.join(arguments)}") for recipe, arguments in calls]


@pytest.mark.parametrize(("recipe", "arguments"), train_overrides())
def test_train_takes_the_documented_overrides(recipe, arguments, capsys):
    for package in ("lightning", "auraloss", "jsonargparse"):
        pytest.importorskip(package, reason="needs the train extra")
    from mimo_codec.train.run import train

    with pytest.raises(SystemExit) as exited:
        if "--plan" in arguments:
            from mimo_codec.train.lm.memory import plan

            train(recipe, [argument for argument in arguments if argument != "--plan"], plan=plan)
        train(recipe, [*arguments, *([] if "help" in " ".join(arguments) else ["--print_config"])])
    assert exited.value.code in (0, None), capsys.readouterr().err


@pytest.mark.parametrize("arguments", commands_of("python"))
def test_programs_exist(arguments):
    if arguments[0] == "-m":
        assert find_spec(arguments[1])
    else:
        assert (ROOT / arguments[0]).is_file()


def test_extras_exist():
    table = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]\n")[1]
    extras = set(re.findall(r"^([\w-]+) = \[", table.split("\n[")[0], re.M))
    named = {
        extra
        for text in PAGES.values()
        for group in re.findall(r"\.\[([\w,-]+)\]'", text)
        for extra in group.split(",")
    }
    assert {"all", "dev", "docs", "train", "eval", "lm", "onnx"} <= named <= extras


# ---- links and names of files ----------------------------------------------------------------------------------------


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)


def anchors(text: str) -> set[str]:
    """What a heading can be linked as."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.M)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(PAGES[name])):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), f"{link}: there is no such file"
        assert target.is_file(), f"{link}: a folder is not a page"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{link}: there is no such heading"


FILE_NAME = re.compile(r"`((?:[\w.-]+/)+(?:[\w-]+\.(?:py|yaml|md|wav|ipynb))?|[\w-]+\.py)`")


@pytest.mark.parametrize(
    "name", ["CONTRIBUTING.md", "README.md", *(p for p in PAGES if re.match(r"docs/[\w-]+\.md", p))]
)
def test_files_that_are_named_exist(name):
    """Paths count from the root or, on the architecture page, from the package or one of its rooms."""
    roots = [ROOT, ROOT / "mimo_codec", ROOT / "mimo_codec" / "codec"]
    made_by_users = {
        "corpus/",
        "speech/",
        "runs/",
        "graphs/",
        "train/",
        "codebook/",
        "val/",
        "held_out/",
        "work/",
        "learning_rate/",
    }
    for path in re.findall(FILE_NAME, without_code(PAGES[name])):
        known = any((root / path).exists() for root in roots) or path.split("/")[0] + "/" in made_by_users
        assert known, f"{path}: there is no such file"


# ---- the site --------------------------------------------------------------------------------------------------------

HOOKS = runpy.run_path(str(DOCS / "hooks.py"))


def test_the_site_has_the_help_of_every_command():
    page, help_text = PAGES["docs/command-line.md"], HOOKS["command_help"]()
    assert HOOKS["HELP_MARK"] in page
    for command in ("encode", "train", "data scan", "generate few-shot", "export lm"):
        assert f"### `mimo-codec {command}`\n\n```text\nUsage: mimo-codec {command} [OPTIONS]" in help_text
    assert "-q, --num-quantizers" in help_text and max(map(len, help_text.splitlines())) <= 80


def test_the_site_has_every_key_of_the_configuration():
    from mimo_codec import CodecConfig

    assert HOOKS["KEYS_MARK"] in PAGES["docs/architecture.md"]
    documented = set(re.findall(r"^\| `(\w+)`", HOOKS["config_keys"](), re.M))
    written = CodecConfig.preset("tiny").to_dict()
    assert documented >= {key for key in written if key not in FIXED_KEYS}


FIXED_KEYS = {"model_type", "architectures", "max_audio_seconds", "scale_embedding", "source"}
"""Keys of a config.json that nothing can be chosen by."""


@pytest.mark.parametrize(
    ("source", "target", "link", "expected"),
    [
        ("README.md", "index.md", "docs/onnx.md#c", "onnx.md#c"),
        ("README.md", "index.md", "pretrained/nano/README.md", "nano/index.md"),
        ("docs/evaluation.md", "evaluation.md", "../CONTRIBUTING.md#add-a-metric", "contributing.md#add-a-metric"),
        ("docs/api/codec.md", "api/codec.md", "../architecture.md", "../architecture.md"),
        ("pretrained/nano/README.md", "nano/index.md", "TRAINING.md", "training.md"),
        ("README.md", "index.md", "https://arxiv.org/abs/2512.23808", "https://arxiv.org/abs/2512.23808"),
        ("README.md", "index.md", "nowhere.md", "nowhere.md"),
    ],
)
def test_links_are_moved_to_the_site(source, target, link, expected):
    assert HOOKS["move_links"](f"see [it]({link}).", source, target) == f"see [it]({expected})."


def test_the_architecture_page_has_every_room_in_the_order_of_imports():
    table = PAGES["docs/architecture.md"].split("| room |")[1].split("\n\n")[0]
    rooms = [
        name.removesuffix("/").removesuffix(".py").replace("/", ".")
        for name in re.findall(r"^\| `([\w./]+)`", table, re.M)
    ]
    assert sorted(rooms) == sorted(ROOMS)
    for room, imports in ROOMS.items():
        assert all(rooms.index(name) < rooms.index(room) for name in imports), room


# ---- the notebook ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_notebook_runs_offline(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs the dev extra")
    nbclient = pytest.importorskip("nbclient", reason="needs the dev extra")
    pytest.importorskip("matplotlib", reason="needs the eval extra")
    notebook = nbformat.read(ROOT / "examples" / "tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "committed with outputs"
    shutil.copy(ROOT / "examples" / "speech.wav", tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert (tmp_path / "speech.mimo").stat().st_size < 3000
