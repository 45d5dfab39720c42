#!/bin/sh
# A tour of the API with curl: health, execute, a session, run, stream, executions.
set -eu

url="${ERA_URL:-http://127.0.0.1:8787}"
json="Content-Type: application/json"

step() {
    printf '\n== %s\n' "$1"
}

# The answer must hold this text, or the tour ends.
expect() {
    case "$2" in
        *"$1"*) ;;
        *) echo "no $1 in: $2" >&2; exit 1 ;;
    esac
}

step "Is the server well?"
answer=$(curl -sS --fail "$url/health")
echo "$answer"
expect '"status":"healthy"' "$answer"

step "A program, once"
answer=$(curl -sS --fail -X POST "$url/api/execute" -H "$json" \
    -d '{"language": "python", "code": "print(\"Hello World\")"}')
echo "$answer"
expect '"stdout":"Hello World\n"' "$answer"

step "A session"
answer=$(curl -sS --fail -X POST "$url/api/sessions" -H "$json" -d '{"language": "python"}')
echo "$answer"
id=$(printf '%s' "$answer" | sed -n 's/.*"id":"\([^"]*\)","session_id".*/\1/p')
session="$url/api/sessions/$id"
trap 'curl -sS -X DELETE "$session" > /dev/null' EXIT

step "Variables stay from run to run"
curl -sS --fail -X POST "$session/run" -H "$json" -d '{"code": "x = 41"}' > /dev/null
answer=$(curl -sS --fail -X POST "$session/run" -H "$json" -d '{"code": "print(x + 1)"}')
echo "$answer"
expect '"stdout":"42\n"' "$answer"

step "Output as it comes"
answer=$(curl -sS --fail -N -X POST "$session/stream" -H "$json" \
    -d '{"code": "import time; [print(f\"Processing {i}\") or time.sleep(0.2) for i in range(3)];"}')
echo "$answer"
expect 'Processing 2' "$answer"
expect 'event: done' "$answer"

step "What was run"
answer=$(curl -sS --fail "$session/executions")
echo "$answer"
expect '"count":3' "$answer"
