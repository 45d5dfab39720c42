#!/usr/bin/env bash
# Takes the steps of the Dockerfile without a container engine, and uses what they made. Run by hand,
# as root, where debootstrap is installed: tests/image/try_image.sh
#
# A Debian root stands for the base image, and a venv in it for its Python. The wheels are built
# outside by $PYTHON, which must be the same Python 3.x. The server runs as the image's user, in
# namespaces of its own with no network but loopback; they end with this script, whatever happens.
set -euo pipefail

SELF=$(realpath "${BASH_SOURCE[0]}")
SOURCE=$(realpath "$(dirname "$SELF")/../..")
SUITE=bookworm
PYTHON=${PYTHON:-python3.11}
EXTRAS=${EXTRAS-[science]}

say() { printf '\n== %s\n' "$*"; }

main() {
    ROOT=$(mktemp -d --tmpdir era-image.XXXXXX)
    trap 'rm -rf --one-file-system "$ROOT"' EXIT

    say "the base: Debian $SUITE with Python"
    debootstrap --variant=minbase --include=python3,python3-venv "$SUITE" "$ROOT" "$(mirror)" \
        > "$ROOT.log" || { tail -n 20 "$ROOT.log" >&2; return 1; }
    rm "$ROOT.log"
    chmod 755 "$ROOT"
    chroot "$ROOT" python3 -m venv /opt/era

    say "stage build: the wheels of era-kernels$EXTRAS"
    mkdir "$ROOT/source" "$ROOT/wheels"
    cp -r "$SOURCE"/{pyproject.toml,README.md,LICENSE,era_kernels,kernelspecs} "$ROOT/source"
    (cd "$ROOT/source" && "$PYTHON" -m pip wheel --quiet --no-cache-dir \
        --wheel-dir "$ROOT/wheels" ".$EXTRAS")
    rm -r "$ROOT/source"
    du -sh "$ROOT/wheels" | cut -f 1

    say "stage 2: installed without an index, languages loaded, the user made"
    local before
    before=$(kilobytes)
    # From empty: pip must not find what it is told of here.
    env -i PATH="$PATH" chroot "$ROOT" /opt/era/bin/pip install --quiet --no-cache-dir --no-index \
        --find-links /wheels "era-kernels$EXTRAS"
    rm -r "$ROOT/wheels"
    chroot "$ROOT" /opt/era/bin/era-kernels install
    chroot "$ROOT" useradd --uid 10001 --no-create-home --home-dir /data \
        --shell /usr/sbin/nologin era
    chroot "$ROOT" install -d -o era -m 700 /data
    echo "it adds $((($(kilobytes) - before) / 1024)) MB to the base; the largest of it in MB:"
    (cd "$ROOT"/opt/era/lib/python3*/site-packages && du -sm -- * | sort -rn | head -n 12)

    unshare --mount --pid --net --fork --kill-child "$SELF" inside "$ROOT"
    say "all of it works"
}

# The mirror that apt uses here.
mirror() {
    apt-get indextargets --format '$(REPO_URI)' "Codename: $SUITE" 'Created-By: Packages' |
        head -n 1
}

kilobytes() { du -sk --one-file-system "$ROOT" | cut -f 1; }

# As pid 1 of the namespaces.
inside() {
    mount -t proc proc "$ROOT/proc"
    mount --rbind /dev "$ROOT/dev"
    mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
    ip link set lo up
    local variables health
    read -ra variables < <(sed -n 's/^ENV //p' "$SOURCE/Dockerfile")
    mapfile -d '' health < <(health_command)

    # A command as the container's user has it. No function: $! must be the server itself.
    local as_era=(setpriv --no-new-privs chroot --userspec=era:era "$ROOT"
        env -i PATH=/opt/era/bin:/usr/bin:/bin HOME=/data)

    say "without a token it refuses to start"
    if "${as_era[@]}" "${variables[@]}" era-kernels serve; then
        return 1
    fi

    say "the server, as uid 10001"
    variables+=("ERA_API_TOKENS=$(od -An -N 16 -t x1 /dev/urandom | tr -d ' \n')")
    "${as_era[@]}" "${variables[@]}" era-kernels serve &
    local server=$! tries=0
    until "${as_era[@]}" "${variables[@]}" "${health[@]}" 2> /dev/null; do
        kill -0 "$server"
        test $((++tries)) -lt 60
        sleep 1
    done
    echo "the health check succeeds"

    say "POST /api/execute"
    "${as_era[@]}" "${variables[@]}" python -c "$EXECUTE"

    say "SIGTERM"
    kill -TERM "$server"
    wait "$server"
    echo "it ended with 0; in /data:"
    ls -l "$ROOT/data"
}

# The words of the Dockerfile's HEALTHCHECK, each ended by NUL.
health_command() {
    "$PYTHON" - "$SOURCE/Dockerfile" << 'PROGRAM'
import json, pathlib, re, sys
lines = pathlib.Path(sys.argv[1]).read_text().replace("\\\n", "")
words = json.loads(re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", lines, re.M)[1])
print(*words, sep="\0", end="\0")
PROGRAM
}

EXECUTE='
import json, os, urllib.request
request = urllib.request.Request(
    "http://127.0.0.1:{ERA_PORT}/api/execute".format(**os.environ),
    json.dumps({"language": "python", "code": "import os; print(6 * 7, os.getuid())"}).encode(),
    {"Authorization": "Bearer " + os.environ["ERA_API_TOKENS"]},
)
answer = json.load(urllib.request.urlopen(request, timeout=60))
print(answer)
assert answer["stdout"] == "42 10001\n"
'

if [[ ${1-} == inside ]]; then
    ROOT=$2
    inside
else
    main
fi
