"""The READMEs tell the truth: their Python runs as a user would run it, and prints what they say."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pytest
from support.deployed import deployed
from support.local_aws import LocalAws

ROOT = Path(__file__).parents[2]
READMES = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/README.md")])
NO_RUN = "<!-- no-run -->"
FENCE = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its text, its line, and the prose since the block before it."""

    language: str
    body: str
    line: int
    before: str


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a Markdown text, in order."""
    found, end = [], 0
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(match["language"], match["body"], line, text[end : match.start()].strip()))
        end = match.end()
    return found


def snippets(text: str) -> list[tuple[Block, str | None]]:
    """Each Python block that is to run, with the output printed right below it if there is one."""
    fenced = blocks(text)
    return [
        (block, after.body if after and after.language == "text" and not after.before else None)
        for block, after in zip_longest(fenced, fenced[1:])
        if block.language == "python" and not block.before.endswith(NO_RUN)
    ]


def under(heading: str, text: str) -> list[Block]:
    """The blocks below a heading, up to the next one."""
    current, found = "", []
    for block in blocks(text):
        current = next(iter(reversed(re.findall(r"^#+ +(.*?) *$", block.before, re.MULTILINE))), current)
        found += [block] if current == heading else []
    return found


SNIPPETS = [
    pytest.param(block.body, expected, id=f"{path.relative_to(ROOT)}:{block.line}")
    for path in READMES
    for block, expected in snippets(path.read_text())
]


def run(source: str, where: Path) -> subprocess.CompletedProcess[str]:
    """Run a snippet as a script of its own in an otherwise empty directory."""
    script = where / "snippet.py"
    script.write_text(source)
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=where,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
        env=os.environ | {"PYWREN_NG_MAX_WORKERS": "2"},  # as on a machine of two cores
    )


@pytest.fixture(scope="module")
def lambda_functions(one_local_aws: LocalAws) -> Iterator[None]:
    """A deployment on a local AWS, to which the environment leads."""
    with deployed(one_local_aws, 2048, 512):
        one_local_aws.knobs(real_environments=4)  # or each task of no length would start one
        yield
        one_local_aws.reset()


@pytest.mark.parametrize(("source", "expected"), SNIPPETS)
def test_a_snippet_runs(source: str, expected: str | None, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if 'Executor("lambda"' in source:
        request.getfixturevalue("lambda_functions")
    ran = run(source, tmp_path)
    assert ran.returncode == 0, ran.stderr
    if expected is not None:
        assert ran.stdout.strip() == expected.strip()


def test_the_readme_has_snippets() -> None:
    assert snippets((ROOT / "README.md").read_text())


def test_exactly_two_commands() -> None:
    shell = [block.body for block in under("Two commands", (ROOT / "README.md").read_text()) if block.language == "sh"]
    commands = [line for line in "".join(shell).splitlines() if line.strip() and not line.startswith("#")]
    assert commands == ["pip install . && pywren-ng hello", "scripts/test"]


def test_the_guarantees_tests_are_there() -> None:
    named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", (ROOT / "README.md").read_text())
    assert named
    for file, test in named:
        assert re.search(rf"^(def {test}\(|class {test}\b|{test} = )", (ROOT / file).read_text(), re.MULTILINE), test


def test_local_links_lead_somewhere() -> None:
    for readme in READMES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", readme.read_text()):
            assert (readme.parent / link).exists(), f"{readme}: {link}"


def test_blocks_are_read_as_written() -> None:
    text = "a\n```python\nprint(1)\n```\n\n```text\n1\n```\n" + f"{NO_RUN}\n```python\nno()\n```\n```text\n2\n```\n"
    assert [(block.body, expected) for block, expected in snippets(text)] == [("print(1)\n", "1\n")]


def test_a_heading_ends_a_section() -> None:
    text = "# A\n```sh\n# no heading\none\n```\nmore\n```sh\ntwo\n```\n## B\n```sh\nthree\n```\n"
    assert [block.body for block in under("A", text)] == ["# no heading\none\n", "two\n"]
