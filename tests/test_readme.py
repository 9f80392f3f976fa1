"""Every command of the README is run, in order, as a newcomer would, with fewer steps."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
QUICK = {"--minutes": ["--steps", "2"], "--epochs": ["--steps", "2"], "--steps": ["--steps", "2"]}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    return [shlex.split(line) for block in blocks("bash") for line in block.splitlines() if line.strip()]


def shortened(arguments: list[str]) -> list[str]:
    """The same command with two steps and small crops instead of its limit."""
    short: list[str] = []
    while arguments:
        word, *arguments = arguments
        if word in QUICK:
            short += [*QUICK[word], "transform.crop=[64,64]"]
            arguments = arguments[1:]
        else:
            short.append(word)
    return short


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.whole
def test_every_command_works(tmp_path: Path) -> None:
    others = [command for command in commands() if command[0] != "segwright"]
    assert others == [["pip", "install", "."], ["make", "demo"]]
    for command in commands():
        if command[0] == "segwright":
            arguments = shortened(command[1:]) if command[1] == "train" else command[1:]
            run([sys.executable, "-m", "segwright.cli", *arguments], tmp_path)
    code = "\n".join(blocks("python"))
    guarded = "if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in code.splitlines())
    (tmp_path / "script.py").write_text(guarded)
    run([sys.executable, "script.py"], tmp_path)


def test_make_demo_has_the_commands_of_the_readme() -> None:
    """The recipe of `make demo` is printed, not run: CI has `make test` to run, and the demo takes three minutes."""
    printed = subprocess.run(["make", "-n", "demo"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    verbs = re.findall(r"bin/segwright (\w+)", printed)
    assert verbs == ["cells", "inspect", "train", "evaluate", "predict"]


def test_every_link_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
