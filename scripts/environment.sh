# Sourced by the other scripts: goes to the project's root, makes .venv when needed, installs what is missing.
# Usage: . scripts/environment.sh; prepare_environment [test]
# shellcheck shell=bash
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "python3 of version 3.11 or newer is needed and was not found; install it or set PYTHON=/path/to/python3"
}

prepare_environment() {
    local extra=${1:-} wanted stamp=.venv/installed
    wanted=$(cat setup.cfg pyproject.toml <(printf '%s' "$extra") | cksum)
    if [ -f "$stamp" ] && grep -qxF "$wanted" "$stamp"; then
        return
    fi
    if [ ! -x .venv/bin/python ]; then
        local python
        python=$(find_python)
        printf 'making .venv with %s\n' "$("$python" --version)"
        "$python" -m venv .venv 2>.venv-error || {
            rm -rf .venv
            cat .venv-error >&2
            rm -f .venv-error
            fail "cannot make a virtual environment with $python; on Debian install the package python3-venv"
        }
        rm -f .venv-error
    fi
    printf 'installing the packages of setup.cfg into .venv (first run only, about a minute)\n'
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".${extra:+[$extra]}" ||
        fail "installing failed: see the lines above; pip needs a package index or a wheel directory (PIP_FIND_LINKS)"
    printf '%s\n' "$wanted" >>"$stamp"
}

# Compiles modules and kernels once per state of the sources; Python and numba keep the result beside them.
prepare_kernels() {
    local stamp=.venv/kernels wanted began
    # What was written, renamed or unpacked since then has a younger time of change (ctime), itself or its folder: nobody can set that one.
    if [ -f "$stamp" ] && [ -z "$(find src -name __pycache__ -prune -o -cnewer "$stamp" -print -quit)" ]; then
        return
    fi
    # A start takes half a second longer without, and who runs it may not be allowed to write it, or told not to.
    .venv/bin/python -m compileall -q src lab bench || true
    began=$(mktemp)
    wanted=$(.venv/bin/python scripts/kernel_sources.py)
    if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
        # A cached kernel does not notice that a kernel or a constant from another file changed.
        printf 'compiling the kernels (once for these sources, one to four minutes)\n'
        find src -name '*.nb[ic]' -delete
        .venv/bin/python -m aggregator.warmup --also coordinator.warmup
        printf '%s' "$wanted" >"$stamp"
    fi
    # What is changed meanwhile counts as changed afterwards.
    touch -r "$began" "$stamp"
    rm -f "$began"
}
