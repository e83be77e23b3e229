"""Writes requirements.lock: each pin of constraints.txt with its file's SHA-256, for the Python that runs it.

The lock names no index: pip asks the one that it is configured with, and refuses any other file.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
HEAD = """\
# Made by make lock, for Linux on x86-64 and Python 3.11: each pin of constraints.txt with its file's hash.
# pip install --require-hashes --no-deps -r requirements.lock, then pip install --no-deps .
"""


def main() -> None:
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        resolve = [
            "install",
            "--quiet",
            "--dry-run",
            "--ignore-installed",
            "--no-deps",
            "--report",
            str(report),
        ]
        command = [sys.executable, "-m", "pip", *resolve, "-r", str(ROOT / "constraints.txt")]
        subprocess.run(command, check=True)
        installed = json.loads(report.read_text())["install"]
    lines = []
    for package in installed:
        metadata, hashes = package["metadata"], package["download_info"]["archive_info"]["hashes"]
        lines.append(f"{metadata['name']}=={metadata['version']} --hash=sha256:{hashes['sha256']}")
    (ROOT / "requirements.lock").write_text(HEAD + "\n".join(sorted(lines, key=str.lower)) + "\n")
    print(f"written: requirements.lock, {len(lines)} packages")


if __name__ == "__main__":
    main()
