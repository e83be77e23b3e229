"""Asks pip-audit for known vulnerabilities among the pinned packages; says in one line where it cannot."""

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OFFLINE = ("ConnectionError", "ServiceError", "Max retries exceeded", "Failed to", "timed out")


def main() -> None:
    if importlib.util.find_spec("pip_audit") is None:
        sys.exit(
            "error: pip-audit is not installed; .venv/bin/python -m pip install pip-audit, then make audit"
        )
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "-r", str(ROOT / "constraints.txt")]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *options], capture_output=True, text=True, check=False
    )
    if done.returncode and not done.stdout.strip() and any(sign in done.stderr for sign in OFFLINE):
        sys.exit(
            "error: the service of known vulnerabilities cannot be reached; run make audit with a network"
        )
    print(done.stdout or done.stderr, end="")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
