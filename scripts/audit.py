"""Asks pip-audit for known vulnerabilities among the pinned packages; says in one line where it cannot."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    if importlib.util.find_spec("pip_audit") is None:
        sys.exit(
            "error: pip-audit is not installed; .venv/bin/python -m pip install pip-audit, then make audit"
        )
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", *options, "-r", str(ROOT / "constraints.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    packages = json.loads(done.stdout)["dependencies"] if done.stdout.startswith("{") else []
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        sys.exit(
            "error: nothing was audited, the service of known vulnerabilities was not reached; use a network"
        )
    found = [f"{p['name']} {p['version']}: {v['id']}" for p in audited for v in p["vulns"]]
    print("\n".join([*found, f"{len(audited)} of {len(packages)} packages audited, {len(found)} found"]))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
