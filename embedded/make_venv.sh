#!/bin/sh
# Makes .venv with the locked dependencies, unless it is there and up to date.
set -eu
cd "$(dirname "$0")/.."

stamp=.venv/installed
wanted=$(cksum <embedded/requirements.lock)
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

python=
# The version of the container image first.
for candidate in python3.13 python3.12 python3.11 python3.14 python3; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "error: no Python 3.11 to 3.14 found; Airflow requires one of them." >&2
    echo "Debian, Ubuntu: apt install python3 python3-venv    Fedora: dnf install python3.13    macOS: brew install python@3.13" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "error: $python cannot make virtual environments: its venv module is missing." >&2
    echo "Debian, Ubuntu: apt install python$version-venv" >&2
    exit 1
fi

echo "installing into .venv with $("$python" --version) (a few minutes, once)"
"$python" -m venv --clear .venv
.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r embedded/requirements.lock
echo "$wanted" >"$stamp"
