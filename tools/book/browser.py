"""A headless Chromium, asked through a pipe: no driver, no package.

    with Browser() as browser:
        page = browser.open("file:///...", width=800)
        page.run("document.title")      the value of an expression, awaited if it is a promise
        page.errors, page.requests      what went wrong, and what was asked for
        page.picture("page.png")

Chromium reads commands from file descriptor 3 and writes answers and events to 4, each a JSON text
that ends with a zero byte (--remote-debugging-pipe).
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time


class Waiting:
    """What a page of any browser can do that has run() and a browser with pump()."""

    def until(self, expression, seconds=20):
        """Waits until the expression is true; False when it is not in time."""
        end = time.monotonic() + seconds
        while not self.run(f"!!({expression})"):
            if time.monotonic() > end:
                return False
            self.browser.pump(0.02)
        return True


class Page(Waiting):
    def __init__(self, browser, session):
        self.browser, self.session = browser, session
        self.errors, self.requests, self.loaded = [], [], False

    def send(self, method, **params):
        return self.browser.send(method, self.session, **params)

    def event(self, method, params):
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            self.loaded = True

    def run(self, expression):
        done = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in done:
            raise RuntimeError(
                done["exceptionDetails"].get("exception", {}).get("description", "?")
            )
        return done["result"].get("value")

    def picture(self, path, whole=True):
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))


class Browser:
    def __init__(self, flags=()):
        self.profile = tempfile.mkdtemp()
        self.number, self.answers, self.pages, self.buffer = 0, {}, {}, b""
        read_theirs, self.to = os.pipe()
        self.source, write_theirs = os.pipe()

        def descriptors():  # 3 and 4 of the child; read_theirs may itself be one of them
            theirs = [os.dup(read_theirs), os.dup(write_theirs)]
            os.dup2(theirs[0], 3), os.dup2(theirs[1], 4)

        self.process = subprocess.Popen(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--remote-debugging-pipe", "--hide-scrollbars", "--disable-background-networking",
             f"--user-data-dir={self.profile}", *flags, "about:blank"],
            preexec_fn=descriptors, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read_theirs), os.close(write_theirs)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.send("Browser.close")
        except (OSError, RuntimeError):
            pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        shutil.rmtree(self.profile, ignore_errors=True)

    def pump(self, seconds):
        """Reads what has come, waiting at most so long for it."""
        if not select.select([self.source], [], [], seconds)[0]:
            return
        got = os.read(self.source, 1 << 20)
        if not got:
            raise RuntimeError("Chromium has ended")
        *messages, self.buffer = (self.buffer + got).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self.answers[message["id"]] = message
            elif message.get("sessionId") in self.pages:
                self.pages[message["sessionId"]].event(message["method"], message["params"])

    def send(self, method, session=None, **params):
        self.number += 1
        number, message = self.number, {"id": self.number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 60
        while number not in self.answers:
            if time.monotonic() > end:
                raise RuntimeError(f"Chromium does not answer {method}")
            self.pump(1)
        answer = self.answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, url, width=1200, height=900, scripts=True, before=""):
        """A page that has loaded; `before` is a script that runs before its own."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session)
        page.target = target
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        page.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        if not scripts:
            page.send("Emulation.setScriptExecutionDisabled", value=True)
        if before:
            page.send("Page.addScriptToEvaluateOnNewDocument", source=before)
        page.send("Page.navigate", url=url)
        end = time.monotonic() + 30
        while not page.loaded and time.monotonic() < end:
            self.pump(0.1)
        return page

    def close(self, page):
        self.send("Target.closeTarget", targetId=page.target)
        del self.pages[page.session]
