"""README, CONTRIBUTING and docs: the code runs, the commands parse, links and names exist.

An indented block holds commands, as a `bash` block does. A block in a language that is not checked
fails, so that none is skipped without notice. Words in capitals, such as SEED, stand for a number.
"""

import argparse
import contextlib
import importlib.util
import os
import pkgutil
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from absl import app, flags, logging
from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LANGUAGES = {"python", "bash", "yaml"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TOOLS = {"lint-imports", "pip", "pre-commit", "pyright", "ruff"}
"""Programs of other projects; their options are not checked."""

PYTHON = re.compile(r"(.*/)?python[\d.]*")
PLACEHOLDER = re.compile(r"\$\{?[A-Z_]+\}?|\b[A-Z][A-Z_]+\b")
NAME = re.compile(r"jdmm(\.\w+)+")
PATH = re.compile(r"(\.ci|benchmarks|configs|docs|jdmm|tests)/[\w./-]*")

ignore_reload_warnings = pytest.mark.filterwarnings(
    "ignore:.*found in sys.modules:RuntimeWarning",
    r"ignore:the load_module\(\) method:DeprecationWarning",  # ml_collections
)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


class Block(NamedTuple):
    """A block of code and the lines above it in its page."""

    language: str
    code: str
    above: int


def parse(text: str) -> list:
    return MarkdownIt("commonmark").enable("table").parse(text)


def inline(text: str, kind: str) -> Iterator:
    """The tokens of one kind inside of paragraphs, headings and tables."""
    for token in parse(text):
        yield from (child for child in token.children or () if child.type == kind)


def blocks(text: str, *languages: str) -> list[Block]:
    """The blocks in some languages, or all."""
    found = [
        Block(token.info.strip(), token.content, token.map[0] + 1)
        if token.type == "fence"
        else Block("bash", token.content, token.map[0])
        for token in parse(text)
        if token.type in ("fence", "code_block")
    ]
    return [block for block in found if not languages or block.language in languages]


# Commands


class Parsed(BaseException):
    """Stops a program after its options; a BaseException, so that the program does not catch it."""


def commands(code: str) -> Iterator[list[str]]:
    """The words of each command of a shell script."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("&|;"):
                words.append(word)
            elif words:
                yield words
                words = []


def commands_of_yaml(node) -> Iterator[list[str]]:
    """The lists of words that begin with python, such as the command of a container."""
    if isinstance(node, list) and node and PYTHON.fullmatch(str(node[0])):
        yield [str(word) for word in node]
    elif isinstance(node, list | dict):
        for each in node.values() if isinstance(node, dict) else node:
            yield from commands_of_yaml(each)


def check_command(words: list[str]) -> None:
    """The program exists; if it is one of ours, it accepts the options."""
    python = next((place for place, word in enumerate(words) if PYTHON.fullmatch(word)), None)
    if python is not None:
        return check_python([PLACEHOLDER.sub("1", word) for word in words[python + 1 :]])
    program = Path(words[0]).name
    assert program in TOOLS or os.access(ROOT / words[0], os.X_OK), f"unknown program {words[0]}"
    if program == "pip":
        check_requirements(words)


def check_requirements(words: list[str]) -> None:
    """The requirement files and the extras of jdmm that are to be installed exist."""
    for option, value in zip(words, words[1:], strict=False):
        assert option != "-r" or (ROOT / value).is_file(), f"no file {value}"
    for word in words:
        if extras := re.fullmatch(r"(?:\.|jdmm)\[(.*)\]", word):
            assert set(extras[1].split(",")) <= EXTRAS.keys(), f"no extra {extras[1]}"


def check_python(words: list[str]) -> None:
    """Python finds the module or the file, and a program of ours accepts the options."""
    if words[0] == "-m":
        spec = importlib.util.find_spec(words[1])
        assert spec is not None, f"no module {words[1]}"
        if words[1] == "pip":
            check_requirements(words)
        elif words[1].split(".")[0] == "jdmm":
            parse_options(words[2:], lambda: runpy.run_module(words[1], None, "__main__", True))
        return
    script = ROOT / words[0]
    assert script.is_file(), f"no file {words[0]}"
    with mock.patch.object(sys, "path", [str(script.parent), *sys.path]):
        parse_options(words[1:], lambda: runpy.run_path(str(script), run_name="__main__"))


def parse_options(options: list[str], start) -> None:
    """Starts a program, and stops it once it has parsed its options.

    The program itself checks flags, their values, presets and fields of configurations. It raises
    SystemExit for a bad option, with its message on stderr.
    """
    parse_args = argparse.ArgumentParser.parse_args

    def parse_by_argparse(parser):
        parse_args(parser)
        raise Parsed

    def parse_by_absl(main, flags_parser=flags.FLAGS):
        for file in flags_parser(sys.argv)[1:]:
            if not Path(file).is_file():
                pytest.fail(f"no file {file}")
            runpy.run_path(file).get("get_study", dict)()
        raise Parsed

    known, verbosity = set(flags.FLAGS), logging.get_verbosity()
    try:
        with (
            contextlib.chdir(ROOT),
            mock.patch.object(sys, "argv", ["", *options]),
            mock.patch.object(argparse.ArgumentParser, "parse_args", parse_by_argparse),
            mock.patch.object(app, "run", parse_by_absl),
            contextlib.suppress(Parsed),
        ):
            start()
            pytest.fail(f"nothing parsed {options}")
    finally:
        logging.set_verbosity(verbosity)
        for name in set(flags.FLAGS) - known:
            module = flags.FLAGS.find_module_defining_flag(name)
            if "." in name or module not in sys.modules:  # not those of libraries just imported
                delattr(flags.FLAGS, name)


# Links


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    tokens = parse(text)
    titles = [
        "".join(child.content for child in content.children)
        for heading, content in zip(tokens, tokens[1:], strict=False)
        if heading.type == "heading_open"
    ]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path, text: str) -> list[str]:
    """The relative links and images of a page whose target does not exist."""
    links = [token.attrs["href"] for token in inline(text, "link_open")]
    links += [token.attrs["src"] for token in inline(text, "image")]
    broken = []
    for link in links:
        url = urlsplit(unquote(link))
        if url.scheme or url.netloc:
            continue
        target = (page.parent / url.path).resolve() if url.path else page
        if not target.exists() or not target.is_relative_to(ROOT):
            broken.append(link)
        elif url.fragment:
            linked = text if target == page else target.read_text()
            if url.fragment not in anchors(linked):
                broken.append(link)
    return broken


def missing_names(text: str) -> list[str]:
    """The names of `jdmm` and the paths of the repository in the prose that do not exist."""
    missing = []
    for token in inline(text, "code_inline"):
        if name := NAME.match(token.content):
            try:
                pkgutil.resolve_name(name[0])
            except (ImportError, AttributeError):
                missing.append(name[0])
        elif (path := PATH.match(token.content)) and not (ROOT / path[0]).exists():
            missing.append(path[0])
    return missing


# Tests


def test_there_are_pages():
    assert {"README.md", "CONTRIBUTING.md", "methods.md"} <= {page.name for page in PAGES}


@each_page
def test_every_block_is_in_a_language_that_is_checked(page):
    assert {block.language for block in blocks(page.read_text())} <= LANGUAGES


@each_page
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    namespace = {"__name__": "documented"}
    for block in blocks(page.read_text(), "python"):
        code = "\n" * block.above + block.code  # tracebacks show the page's line numbers
        exec(compile(code, str(page), "exec"), namespace)


@each_page
@ignore_reload_warnings
def test_commands_are_accepted(page):
    for block in blocks(page.read_text(), "bash", "yaml"):
        if block.language == "bash":
            found = commands(block.code)
        else:
            found = commands_of_yaml(list(yaml.safe_load_all(block.code)))
        for words in found:
            check_command(words)


@each_page
def test_links_have_targets(page):
    assert not broken_links(page, page.read_text())


@each_page
def test_names_in_the_prose_exist(page):
    assert not missing_names(page.read_text())


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("python main.py --config=configs/spirals.py:besst", "'besst'"),
        ("python main.py --config=configs/spiral.py", "configs/spiral.py"),
        ("python main.py --config=configs/spirals.py --config.epoch=50", "epoch"),
        ("python main.py --config=configs/spirals.py --config.epochs=many", "many"),
        ("python main.py --config=configs/spirals.py --workdirs=runs/mine", "'workdirs'"),
        ("python main.py config=configs/spirals.py", "no file config="),
        ("FLAG=1 srun python main.py --mode=predict", "predict"),
        ("python train.py", "no file train.py"),
        ("python -m jdmm.nothing", "no module jdmm.nothing"),
        ("python -m jdmm.errors", "nothing parsed"),
        ("python -c pass", "no file -c"),
        ("python benchmarks/scaling.py --sweep=colours", "colours"),
        ("true && python benchmarks/train_step.py --rounds=2x", "2x"),
        ("pip install -r requirement.txt", "no file requirement.txt"),
        ("python -m pip install '.[tests]'", "no extra tests"),
        ("nothing --at-all", "unknown program nothing"),
    ],
)
@ignore_reload_warnings
def test_wrong_commands_are_refused(command, complaint, capsys):
    *_, words = commands(command)
    with pytest.raises((AssertionError, SystemExit, pytest.fail.Exception)) as refused:
        check_command(words)
    assert complaint in str(refused.value) + capsys.readouterr().err


def test_wrong_links_names_and_languages_are_found():
    text = (
        "# A *b*: c\n[a](#a-b-c) [d](#d) [e](docs/e.md) ![f](/f.png)\n\n`jdmm.fitt` `docs/g.md`\n"
    )
    assert broken_links(ROOT / "README.md", text) == ["#d", "docs/e.md", "/f.png"]
    assert missing_names(text) == ["jdmm.fitt", "docs/g.md"]
    assert blocks("```julia\n1\n```\n\n    python a.py\n") == [
        Block("julia", "1\n", 1),
        Block("bash", "python a.py\n", 4),
    ]
    assert list(commands_of_yaml({"a": [{"command": ["python", "b.py", 1]}]})) == [
        ["python", "b.py", "1"]
    ]


def test_commands_are_told_apart():
    script = "# none\na 'b c' \\\n  d && e --f=1 # g\n\nh; i | j"
    assert list(commands(script)) == [["a", "b c", "d"], ["e", "--f=1"], ["h"], ["i"], ["j"]]
