"""What sessions serve works in a real browser, and cannot act as a page of the API there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import browser
from tests.browser_tab import Tab, open_tab
from tests.client import Client, SessionClient
from tests.contract.test_proxy import ECHO, PORT
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.timeout(300),  # a browser takes its time where much else is tested
    pytest.mark.skipif(browser.PROGRAM is None, reason="chromium is not installed"),
]

DASHBOARD_PORT = 8501
FILES_PORT = 8000

# A server with hosts for ports: browsers find all names below localhost on this machine.
SERVER_FLAGS = ("--proxy-domain", "localhost")


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with open_tab() as tab:
        yield tab


def start(session: SessionClient, command: str, port: int) -> dict[str, Any]:
    """Starts a program that serves; returns where, when it listens."""
    body = {"command": f"exec {command}", "background": True}
    session.http.post(f"{session.path}/exec", json=body).raise_for_status()

    def listens() -> bool:
        ports = session.http.get(f"{session.path}/ports").json()["ports"]
        return any(one["port"] == port for one in ports)

    assert wait_until(listens, 60)
    place: dict[str, Any] = session.http.get(f"{session.path}/host?port={port}").json()
    return place


def put(session: SessionClient, **files: str) -> None:
    for name, text in files.items():
        path = f"{session.path}/files/{name.replace('_', '.')}"
        session.http.put(path, content=text.encode()).raise_for_status()


# ---------------------------------------------------------------- a dashboard

DASHBOARD = """
import streamlit
streamlit.title("Dashboard")
if streamlit.button("Press"):
    streamlit.write("It was pressed.")
name = streamlit.text_input("Name")
streamlit.write(f"Hello {name}.")
streamlit.line_chart({"a": [1, 3, 2]})
"""


def test_dashboard(client: Client, session: SessionClient, tab: Tab) -> None:
    """A Streamlit app on a host of its own shows its page, and follows a click and an input."""
    pytest.importorskip("streamlit")
    put(session, app_py=DASHBOARD)
    options = "--server.headless true --browser.gatherUsageStats false"
    where = (
        f"--server.address 127.0.0.1 --server.port {DASHBOARD_PORT} --server.fileWatcherType none"
    )
    place = start(session, f"python3 -m streamlit run app.py {options} {where}", DASHBOARD_PORT)
    tab.open(f"{place['url']}/")
    tab.wait_for_text("Hello .")  # it comes by the WebSocket
    tab.click("[...document.querySelectorAll('button')].find((e) => e.innerText == 'Press')")
    tab.wait_for_text("It was pressed.")
    tab.click("document.querySelector('input')")
    tab.type("Ada")
    tab.wait_for_text("Hello Ada.")
    assert "It was pressed." not in tab.run("document.body.innerText")
    tab.wait_for("document.querySelector('canvas, svg.marks')")  # modules that are loaded late


# ---------------------------------------------------------------- pages below a path

PAGE = """<!DOCTYPE html><title>Page</title><link rel="stylesheet" href="style.css">
<p id="shown">nothing</p><button>Ask</button>
<script type="module">
import { greeting } from "./part.mjs";
document.querySelector("button").onclick = async () => {
  const answer = await (await fetch("data.json?x=1")).json();
  document.querySelector("#shown").textContent = `${greeting} ${answer.name}`;
};
</script>"""
MESSAGES = """new Promise((resolve, reject) => {
  const got = [], socket = new WebSocket(URL);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { socket.send("hello"); socket.send(new Uint8Array(70000).fill(7)); };
  socket.onmessage = ({data}) => {
    got.push(typeof data === "string" ? data : `${data.byteLength} ${new Uint8Array(data)[69999]}`);
    if (got.length === 2) socket.send("bye");
  };
  socket.onerror = () => reject(new Error("the connection failed"));
  socket.onclose = ({code, reason}) => resolve([...got, code, reason]);
})"""


def test_pages_below_a_path(client: Client, session: SessionClient, tab: Tab) -> None:
    """A static page, its parts, a list of files, `fetch` and a WebSocket work below the path."""
    put(session, index_html=PAGE, style_css="p { color: rgb(1, 2, 3) }")
    put(session, part_mjs="export const greeting = 'hello';", data_json='{"name": "world"}')
    session.http.put(f"{session.path}/files/below/a%20b.txt", content=b"a text")
    start(session, f"python3 -m http.server -b 127.0.0.1 {FILES_PORT}", FILES_PORT)
    base = f"{client.base_url}/proxy/{session.id}/{FILES_PORT}"
    tab.open(f"{base}/")
    assert tab.run("[origin, document.title]") == ["null", "Page"]
    assert tab.run("getComputedStyle(document.querySelector('p')).color") == "rgb(1, 2, 3)"
    tab.click("document.querySelector('button')")
    tab.wait_for_text("hello world")
    tab.open(f"{base}/below")  # http.server redirects
    tab.wait_for_text("Directory listing for /below/")
    assert tab.run("location.pathname") == urlsplit(f"{base}/below/").path
    tab.click("[...document.links].find((e) => e.innerText == 'a b.txt')")
    tab.wait_for_text("a text")
    assert session.run(ECHO)["exit_code"] == 0
    url = f"{client.base_url}/proxy/{session.id}/{PORT}/ws".replace("http", "ws", 1)
    assert tab.run(MESSAGES.replace("URL", json.dumps(url))) == ["hello", "70000 7", 4000, "bye"]


# ---------------------------------------------------------------- pages that attack the API

# What a page tries with the API: expressions, in which API is its origin.
ATTACKS = {
    "read": "(await fetch(API + '/api/sessions', {credentials: 'include'})).status",
    "read a file": "(await fetch(API + FILE, {credentials: 'include'})).status",
    "write": "(await fetch(API + '/api/sessions', {method: 'POST', credentials: 'include',"
    " headers: {'Content-Type': 'application/json'}, body: BODY})).status",
    "read by XMLHttpRequest": "await new Promise((resolve, reject) => {"
    " const one = new XMLHttpRequest(); one.withCredentials = true; one.open('GET', API +"
    " '/api/sessions'); one.onload = () => resolve(one.status); one.onerror = reject;"
    " one.send() })",
    "read as a script": "await new Promise((resolve, reject) => {"
    " const one = document.createElement('script'); one.src = API + '/api/sessions';"
    " one.onload = resolve; one.onerror = reject; document.body.append(one) })",
    "read a frame": "await new Promise((resolve, reject) => {"
    " const one = document.createElement('iframe'); one.src = API + '/api/sessions'; one.onload ="
    " () => one.contentDocument ? resolve('read') : reject();"
    " document.body.append(one) })",
    "register a service worker": "(await navigator.serviceWorker.register(API + FILE)).scope",
    "start a shared worker": "new SharedWorker(API + FILE) && 'started'",
}
# What the page finds in its own stores, which must not be those of the API.
STORES = {
    "localStorage": "localStorage.secret ?? 'empty'",
    "sessionStorage": "sessionStorage.secret ?? 'empty'",
    "cookies": "document.cookie || 'empty'",
    "IndexedDB": "(await indexedDB.databases()).length || 'empty'",
    "caches": "(await caches.keys()).length || 'empty'",
}
FILL_STORES = """(async () => {
localStorage.secret = "kept"; sessionStorage.secret = "kept"; document.cookie = "secret=kept";
indexedDB.open("secret"); await caches.open("secret") })()"""
SHOW_STORES = """(async () => [localStorage.secret, document.cookie,
(await navigator.serviceWorker.getRegistrations()).length])()"""
FAIRLY = {"read": 200, "read a file": 200, "write": 400, "read by XMLHttpRequest": 200}
PLANT = "document.cookie = 'planted=1; domain=localhost; path=/'"
SUBMIT = """(() => { const form = document.createElement("form"), field =
document.createElement("input"); form.method = "POST"; form.action = API + "/api/sessions";
form.enctype = "text/plain"; field.name = BODY.slice(0, -1) + ', "data": {"x": "';
field.value = '"}}'; form.append(field); document.body.append(form); form.submit() })()"""
FRAMED = """<!DOCTYPE html><title>Framed</title><script>
if (top !== self) {
  let result = "led away";
  try { top.location = "about:blank#led-away"; } catch { result = "refused"; }
  parent.postMessage(result, "*");
}
</script>"""
FRAME = """new Promise((resolve) => {
  onmessage = ({data}) => resolve(data);
  const one = document.createElement("iframe");
  one.src = URL;
  document.body.append(one);
})"""


def outcome(tab: Tab, names: dict[str, str], script: str) -> Any:
    """Returns what an expression gives in the page, or "refused" where it fails."""
    constants = "".join(f"const {name} = {json.dumps(value)};" for name, value in names.items())
    return tab.run(
        f"(async () => {{ {constants} try {{ return {script} }} catch {{ return 'refused' }} }})()"
    )


def read_popup(tab: Tab, url: str) -> Any:
    """Returns what the page reads of a popup that has loaded, which is closed then."""
    tab.run(f"popup = open({json.dumps(url)}), null")
    assert wait_until(lambda: url in tab.addresses(), 60)
    found = outcome(tab, {}, "popup.document.title")
    tab.run("popup.close()")
    return found


@pytest.mark.parametrize("has_own_host", [False, True], ids=["path", "host"])
def test_attacks(client: Client, session: SessionClient, tab: Tab, has_own_host: bool) -> None:
    """A page of a session reads and writes nothing of the API, and leaves nothing at its origin."""
    put(session, index_html=FRAMED, worker_js="onconnect = () => {};")
    start(session, f"python3 -m http.server -b 127.0.0.1 {FILES_PORT}", FILES_PORT)
    api = client.base_url.replace("127.0.0.1", "localhost")
    url = f"{api}/proxy/{session.id}/{FILES_PORT}/"
    body = json.dumps({"language": "python", "session_id": "made-by-a-page"})
    names = {"API": api, "FILE": f"{session.path}/files/worker.js", "BODY": body}
    tab.open(f"{api}/docs")
    tab.run(FILL_STORES)
    faulty = names | {"BODY": "{}"}
    assert {name: outcome(tab, faulty, ATTACKS[name]) for name in FAIRLY} == FAIRLY

    page = f"{api.replace('localhost', f'{FILES_PORT}-{session.id}.localhost')}/"
    tab.open(page if has_own_host else url)
    assert tab.run("origin") == (page.rstrip("/") if has_own_host else "null")
    assert {name: outcome(tab, names, script) for name, script in ATTACKS.items()} == dict.fromkeys(
        ATTACKS, "refused"
    )
    found = {name: outcome(tab, names, script) for name, script in STORES.items()}
    assert found == dict.fromkeys(STORES, "empty" if has_own_host else "refused")
    outcome(tab, names, PLANT)
    assert read_popup(tab, f"{api}/docs") == "refused"
    assert outcome(tab, {"URL": url}, f"await {FRAME}") == "refused"
    outcome(tab, names, SUBMIT)
    tab.wait_for_text("FORBIDDEN")
    assert client.http.get("/api/sessions/made-by-a-page").status_code == 404
    tab.open(f"{api}/docs")
    assert tab.run(SHOW_STORES) == ["kept", "secret=kept", 0]
