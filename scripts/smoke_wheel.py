"""Builds sdist and wheel, installs the wheel into a clean environment, and tries it from another folder.

The dependencies are those of the environment that runs this; only this package is installed anew.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
INSIDE = """
import hired_eval
from importlib.metadata import entry_points
from pathlib import Path
from hired_eval.mini import checkpoint_path
from hired_eval.paths import config_folder, published_folder
package = Path(hired_eval.__file__).parent
assert package.is_relative_to({environment!r}), package
for path in (config_folder(), published_folder(), published_folder("published"), checkpoint_path()):
    assert path.is_relative_to(package) and any(path.iterdir()), path
assert (package / "py.typed").is_file()
assert [p for p in entry_points(group="lmms_eval.models") if p.name == "hired_llava"]
"""


def said(*command: str | Path, where: Path) -> str:
    """Standard output of a command that has to succeed."""
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    with TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        # the wheel is built from the sdist
        said(sys.executable, "-m", "build", "--outdir", work / "dist", ROOT, where=work)
        (wheel,), (sdist,) = (work / "dist").glob("*.whl"), (work / "dist").glob("*.tar.gz")
        environment = work / "environment"
        said(sys.executable, "-m", "venv", environment, where=work)
        python = environment / "bin" / "python"
        said(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, where=work)
        packages = said(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", where=work)
        Path(packages.strip(), "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        said(python, "-c", INSIDE.format(environment=str(environment)), where=work)
        assert "method=" in said(python, "-m", "hired_eval", "--help", where=work)
        assert "HiRED" in said(environment / "bin" / "hired-eval", "--cfg", "job", where=work)
        run = said(python, "-m", "hired_eval", "budget=0.2", "limit=2", where=work)
        assert "HiRED 20 %" in run
        print(f"{wheel.name} and {sdist.name} build, install and run")


if __name__ == "__main__":
    main()
