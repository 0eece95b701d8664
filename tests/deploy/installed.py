"""A wheel and an sdist of this repository, and a virtual environment in which the wheel is installed as a user would do it."""

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_SOURCES = (
    "src", "docs", "configs", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md",
    "CONTRIBUTING.md",
)  # fmt: skip
_BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]), file=sys.stderr)"
_NOT_BUILT = shutil.ignore_patterns("__pycache__", "*.egg-info")


def run(
    *command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, timeout_s: float = 300.0
) -> str:
    """Runs it; what it says on both outputs. Fails with that where it fails."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


def build(kind: str, sources: Path, folder: Path) -> Path:
    """The file that ``build_wheel`` or ``build_sdist`` makes of ``sources``; what building needs is in this environment."""
    folder.mkdir(parents=True, exist_ok=True)
    name = run(sys.executable, "-c", _BUILD, kind, folder, cwd=sources).splitlines()[-1]
    return folder / name


def copy_of_sources(folder: Path) -> Path:
    """What building reads, without anything that was built."""
    folder.mkdir()
    for name in _SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=_NOT_BUILT)
        else:
            shutil.copy2(source, folder / name)
    return folder


@dataclass(frozen=True)
class Installed:
    """A virtual environment; what the package depends on is seen from this one."""

    prefix: Path
    home: Path

    @property
    def packages(self) -> Path:
        """Its ``site-packages``."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.prefix / "lib" / version / "site-packages"

    @property
    def env(self) -> dict[str, str]:
        """Of a user whose home is ``home``, without what numba is told here."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_", "PYTHON"))}
        return {**kept, "HOME": str(self.home), "PYTHONDONTWRITEBYTECODE": "1"}

    def command(self, name: str, *arguments: str | Path) -> list[str]:
        """A console script, run without the right to write what file modes forbid, which root has."""
        drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
        return [*drop, str(self.prefix / "bin" / name), *map(str, arguments)]

    def cache_name(self) -> str:
        """The folder of its kernels, as it names it itself."""
        script = "from m3x import kernel_cache; print(kernel_cache.choose().name)"
        return run(*self.command("python", "-c", script), env=self.env).strip()


def install(wheel: Path, folder: Path) -> Installed:
    """As the README says it, but for the packages that it depends on: no index is asked."""
    prefix, home = folder / "env", folder / "home"
    home.mkdir(parents=True)
    run(sys.executable, "-m", "venv", prefix)
    run(prefix / "bin/pip", "install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check", wheel)
    found = Installed(prefix, home)
    (found.packages / "dependencies.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    return found


def take_kernels(installed: Installed, base: Path) -> None:
    """Gives it the kernels that are compiled for this checkout: equal files have equal kernels."""
    folder = base / installed.cache_name()
    locator = (
        "import sys; from numba.core.caching import UserProvidedCacheLocator as L\n"
        "for name in sys.stdin.read().split(): print(L.get_suitable_cache_subpath(name))"
    )
    caches = [path for path in (ROOT / "src").rglob("__pycache__") if any(path.glob("*.nbi"))]
    names = [installed.packages / path.parent.relative_to(ROOT / "src") / "any.py" for path in caches]
    done = subprocess.run(
        [sys.executable, "-c", locator],
        input="\n".join(map(str, names)),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    for cache, name in zip(caches, done.stdout.split(), strict=True):
        (folder / name).mkdir(parents=True)
        for path in cache.glob("*.nb[ic]"):
            shutil.copy2(path, folder / name)


def freeze(installed: Installed) -> None:
    """Nobody may write into the environment any more."""
    for path in [installed.prefix, *installed.prefix.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)


def thaw(installed: Installed) -> None:
    """So that it can be removed."""
    for path in [installed.prefix, *installed.prefix.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o700)
