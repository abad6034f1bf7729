"""Rivals to measure against: a package of another release or project, in an environment of its own.

Reads   the package index that pip is set up for (PIP_NO_INDEX and PIP_FIND_LINKS serve a machine without network)
Writes  var/rivals/NAME/: a virtual environment. One that computes as we do holds the rival alone, and everything else,
        torch and transformers above all, is the running interpreter's, so that both sides compute with the same
        libraries. One that is a program of its own holds all that it asks for.

    python tests/benchmarks/rivals.py trl-1.12
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
from pathlib import Path

RIVALS = {
    "trl-1.12": ("trl==1.12.0",),  # the last release with a PPOTrainer
    "label-studio": ("label-studio==1.23.2",),
}
PROGRAMS = ("label-studio",)  # these share no library with us
FOLDER = Path(__file__).parents[2] / "var" / "rivals"


def python_of(name: str) -> Path:
    """The interpreter of the rival's environment, which is made first where it is not there yet.

    Raises:
        KeyError: no rival has that name.
        subprocess.CalledProcessError: pip could not install it.
    """
    requirements, folder = RIVALS[name], FOLDER / name
    python = folder / "bin" / "python"
    if (folder / "whole").exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True)
    if name in PROGRAMS:
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
    else:
        own = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        # Read after the environment's own packages, so the rival wins over another release of itself.
        (own / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(own)]
    subprocess.run([*pip, *requirements], check=True)
    (folder / "whole").touch()
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RIVALS)
    print(python_of(parser.parse_args().name))


if __name__ == "__main__":
    main()
