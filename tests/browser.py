"""Looks at every page of a built site in Chromium: `python -m tests.browser site/`, or `make browser`.

A page fails by an error on its console, a link, figure or anchor that is not there, a script or style of another
server, horizontal scrolling at 390 px, or text that is hardly seen on its background, in the light or the dark theme.
Chromium runs once for each theme; a page of this module shows one page after another in a frame (browser.js).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

WIDTH, SECONDS = 390, 180  # of a phone; for one page
THEMES = {"light": 1, "dark": 0}
LOOK = Path(__file__).with_name("browser.js")
WATCH = """<script>
window.errorsSeen = [];
addEventListener("error", (e) => errorsSeen.push(e.message || `cannot load ${e.target.src || e.target.href}`), true);
addEventListener("unhandledrejection", (e) => errorsSeen.push(String(e.reason)));
console.error = (...said) => errorsSeen.push(said.join(" "));
</script>"""


class Site(ThreadingHTTPServer):
    """Serves a folder, each page with `WATCH` in its head, and collects what is posted."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.folder, self.found = folder, Queue[dict[str, Any] | None]()

    @property
    def address(self) -> str:
        """Where it is served."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def pages(self) -> list[str]:
        """The address of every page, as links name it."""
        paths = (path.relative_to(self.folder) for path in sorted(self.folder.rglob("*.html")))
        return [f"/{path.as_posix().removesuffix('index.html')}" for path in paths if path.name != "404.html"]


class _Handler(SimpleHTTPRequestHandler):
    server: Site  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        page = path / "index.html" if path.is_dir() else path
        if self.path == "/look":
            look = f"const PAGES = {json.dumps(self.server.pages)}, WIDTH = {WIDTH};\n{LOOK.read_text()}"
            self._send(f"<!doctype html><body><script>{look}</script>")
        elif page.suffix == ".html" and page.is_file():
            self._send(page.read_text(encoding="utf-8").replace("<head>", f"<head>{WATCH}", 1))
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self.server.found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._send("")

    def _send(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


def looked_at(chromium: str, site: Site, theme: str) -> Iterator[dict[str, Any]]:
    """What `browser.js` found on each page, in one theme.

    Raises:
        TimeoutError: a page that does not load.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:  # Chromium's last processes write there
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=800,900",
            f"--user-data-dir={profile}",
        ]
        flags.append(f"--blink-settings=preferredColorScheme={THEMES[theme]}")
        browser = subprocess.Popen([chromium, *flags, "--remote-debugging-port=0", f"{site.address}/look"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            while (found := site.found.get(timeout=SECONDS)) is not None:
                yield found
        except Empty:
            raise TimeoutError(f"A page took more than {SECONDS} seconds in Chromium.") from None
        finally:
            browser.terminate()
            browser.wait()


def dead(site: Site, pages: list[dict[str, Any]]) -> Iterator[str]:
    """Links, figures and anchors that are not there, and what a page takes from another server."""
    ids = {page["page"]: set(page["ids"]) for page in pages}
    for page in pages:
        for tag, target in {tuple(part) for part in page["parts"]}:
            address, anchor = urldefrag(target)
            if not address.startswith(site.address):
                if tag not in ("A", "FORM") and urlsplit(address).scheme.startswith("http"):
                    yield f"{page['page']}: asks another server for {address}"
                continue
            path = unquote(urlsplit(address).path)
            file = site.folder / path.lstrip("/")
            if not (file.is_file() or (file / "index.html").is_file()):
                yield f"{page['page']}: there is no {path}"
            elif anchor and unquote(anchor) not in ids.get(path.removesuffix("index.html"), {unquote(anchor)}):
                yield f"{page['page']}: {path} has no #{anchor}"


def main(folder: str) -> int:
    """Look at every page, print what is wrong, and return the exit code."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("Chromium is not installed: the site was not looked at.")
        return 0
    wrong, pages = list[str](), list[dict[str, Any]]()
    with Site(Path(folder).resolve()) as site:
        Thread(target=site.serve_forever, daemon=True).start()
        for theme in THEMES:
            pages = list(looked_at(chromium, site, theme))
            for page in pages:
                for what in ("errors", "wide", "faint"):
                    wrong += [f"{page['page']} ({theme}): {what}: {line}" for line in page[what]]
        wrong += sorted(dead(site, pages))
        site.shutdown()
    print("\n".join([*wrong, f"{len(pages)} pages in {len(THEMES)} themes at {WIDTH} px: {len(wrong)} faults."]))
    return int(bool(wrong) or not pages)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
