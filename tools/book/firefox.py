"""A headless Firefox, asked like browser.py's Chromium, by its own protocol, Marionette: no driver, no package.

    with Firefox() as browser:
        page = browser.open("file:///...")
        page.run("document.title")      the value of an expression, awaited if it is a promise
        page.errors                     of scripts, as Firefox tells them on its stderr

Messages are "BYTES:[0, number, command, arguments]" and "BYTES:[1, number, error, result]" over a socket of this host.
There is one page at a time, and none is narrower than Firefox's smallest window, about 450 pixels.
"""

import json
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

from browser import Waiting

PREFERENCES = {
    "browser.dom.window.dump.enabled": True,  # errors of scripts go to stderr
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.homepage_override.mstone": "ignore",
    "datareporting.policy.dataSubmissionEnabled": False,
    "app.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
}


class Page(Waiting):
    def __init__(self, browser):
        self.browser, self.requests = browser, []
        browser.log.seek(0, 2)
        self.start = browser.log.tell()

    def run(self, expression):
        done = self.browser.send(
            "WebDriver:ExecuteAsyncScript",
            script="const [source, done] = arguments;"
            "Promise.resolve().then(() => window.eval(source)).then("
            "  value => done({value: value === undefined ? null : value}), e => done({error: String(e)}));",
            args=[expression],
            newSandbox=False,
            sandbox=None,
        )["value"]
        if "error" in done:
            raise RuntimeError(done["error"])
        return done["value"]

    @property
    def errors(self):
        self.browser.log.seek(self.start)
        said = self.browser.log.read().decode(errors="replace").splitlines()
        return [line for line in said if line.startswith("JavaScript error: file:")]


class Firefox:
    def __init__(self):
        self.profile = pathlib.Path(tempfile.mkdtemp())
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        lines = {**PREFERENCES, "marionette.port": port}
        (self.profile / "user.js").write_text(
            "".join(f"user_pref({json.dumps(k)}, {json.dumps(v)});\n" for k, v in lines.items())
        )
        self.log = open(self.profile / "log", "w+b")
        self.process = subprocess.Popen(
            ["firefox-esr", "--headless", "--no-remote", "--marionette", "--profile", self.profile],
            stdout=self.log, stderr=self.log,
        )  # fmt: skip
        self.number = 0
        end = time.monotonic() + 60
        while True:
            try:
                self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
                break
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise RuntimeError("Firefox does not start") from None
                time.sleep(0.2)
        self.file = self.socket.makefile("rb")
        self.receive()
        self.send("WebDriver:NewSession", capabilities={"alwaysMatch": {"pageLoadStrategy": "normal"}})
        self.send("WebDriver:SetTimeouts", script=60000, pageLoad=60000)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()
        shutil.rmtree(self.profile, ignore_errors=True)

    def receive(self):
        size = b""
        while not size.endswith(b":"):
            byte = self.file.read(1)
            if not byte:
                raise RuntimeError("Firefox has ended")
            size += byte
        return json.loads(self.file.read(int(size[:-1])))

    def send(self, command, **arguments):
        self.number += 1
        text = json.dumps([0, self.number, command, arguments]).encode()
        self.socket.sendall(b"%d:%s" % (len(text), text))
        while True:
            kind, number, error, result = self.receive()
            if kind == 1 and number == self.number:
                break
        if error:
            raise RuntimeError(f"{command}: {error['message']}")
        return result

    def pump(self, seconds):
        time.sleep(seconds)

    def open(self, url, width=1200, height=900):
        self.send("WebDriver:SetWindowRect", width=width, height=height)
        page = Page(self)
        self.send("WebDriver:Navigate", url=url)
        return page

    def close(self, page):
        self.send("WebDriver:Navigate", url="about:blank")
