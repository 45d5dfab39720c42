#!/bin/sh
# KV with curl: a cache whose entries expire, a counter, settings, pages, and what is stored.
set -eu

url="${ERA_URL:-http://127.0.0.1:8787}"
json="Content-Type: application/json"
namespace="example-$$"
kv="$url/api/storage/kv/$namespace"

step() {
    printf '\n== %s\n' "$1"
}

# The answer must hold this text, or the example ends.
expect() {
    case "$2" in
        *"$1"*) ;;
        *) echo "no $1 in: $2" >&2; exit 1 ;;
    esac
}

# Deletes what this example has put.
clean_up() {
    for key in page:1 page:2 page:3 visits settings ..%2Fodd%20key; do
        curl -sS -X DELETE "$kv?key=$key" > /dev/null
    done
}
trap clean_up EXIT

step "A cache: the value of a page, for a second"
curl -sS --fail -X PUT "$kv/page:1" -H "$json" \
    -d '{"value": "<h1>One</h1>", "expiration_ttl": 1}' > /dev/null
answer=$(curl -sS --fail "$kv/page:1")
echo "$answer"
expect '"value":"<h1>One</h1>"' "$answer"
sleep 1.1
answer=$(curl -sS "$kv/page:1")
echo "$answer"
expect '"code":"KEY_NOT_FOUND"' "$answer"

step "A counter, for one writer: of two at once, one would count for both"
for visit in 1 2 3; do
    found=$(curl -sS "$kv/visits" | sed -n 's/.*"value":"\([0-9]*\)".*/\1/p')
    curl -sS --fail -X PUT "$kv/visits" -H "$json" \
        -d "{\"value\": \"$((${found:-0} + 1))\"}" > /dev/null
done
answer=$(curl -sS --fail "$kv/visits")
echo "$answer"
expect '"value":"3"' "$answer"

step "Settings: a text that is JSON, with metadata"
curl -sS --fail -X PUT "$kv/settings" -H "$json" \
    -d '{"value": "{\"theme\":\"dark\"}", "metadata": {"version": 2}}' > /dev/null
answer=$(curl -sS --fail "$kv/settings")
echo "$answer"
expect '"metadata":{"version":2}' "$answer"

step "A key that no URL would keep"
curl -sS --fail -X PUT "$kv?key=..%2Fodd%20key" -H "$json" -d '{"value": "kept"}' > /dev/null
answer=$(curl -sS --fail "$kv?key=..%2Fodd%20key")
echo "$answer"
expect '"value":"kept"' "$answer"

step "Keys by their beginning, a page at a time"
for number in 1 2 3; do
    curl -sS --fail -X PUT "$kv/page:$number" -H "$json" -d '{"value": "x"}' > /dev/null
done
answer=$(curl -sS --fail "$kv?prefix=page:&limit=2")
echo "$answer"
expect '"list_complete":false' "$answer"
cursor=$(printf '%s' "$answer" | sed -n 's/.*"cursor":"\([^"]*\)".*/\1/p')
answer=$(curl -sS --fail "$kv?prefix=page:&limit=2&cursor=$cursor")
echo "$answer"
expect '"name":"page:3"' "$answer"
expect '"list_complete":true' "$answer"

step "What is stored"
answer=$(curl -sS --fail "$url/api/resources/list?namespace=$namespace&limit=1")
echo "$answer"
expect '"total":6' "$answer"
answer=$(curl -sS --fail "$url/api/resources/stats")
echo "$answer"
expect "\"$namespace\":6" "$answer"
