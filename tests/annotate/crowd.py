"""Many annotators at once, in a process of their own: what each was told is stored, and how long each request took.

    python -m tests.annotate.crowd http://127.0.0.1:8080 1.0 TOKEN ...

Each opens /work, thinks, answers, and is shown the next, until nothing is left; where the server is away, they try
again. Prints JSON: the slots whose answers were acknowledged, and the seconds of every request by kind.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import sys
import threading
import time
from typing import Any
from urllib.parse import urlencode, urlsplit

CHOICES = ("first-much", "first-slightly", "second-slightly", "second-much")


class Annotator:
    """Somebody at a browser: one connection, one cookie."""

    def __init__(self, base: str, token: str, think: float) -> None:
        self.host, self.token, self.think = urlsplit(base).netloc, token, think
        self.random = random.Random(token)
        self.connection = http.client.HTTPConnection(self.host, timeout=30)
        self.stored: list[tuple[int, str]] = []
        self.seconds: dict[str, list[float]] = {"GET": [], "POST": []}

    def ask(self, method: str, path: str, body: str = "") -> tuple[int, str]:
        """The status and the page, once there is an answer. Raises OSError where the server went away meanwhile."""
        headers = {"Cookie": f"annotator={self.token}", "Content-Type": "application/x-www-form-urlencoded"}
        begun = time.perf_counter()
        try:
            self.connection.request(method, path, body, headers)
            answer = self.connection.getresponse()
            text = answer.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError from error
        finally:
            if sys.exc_info()[0] is not None:
                self.connection.close()
        self.seconds[method].append(time.perf_counter() - begun)
        return answer.status, text

    def work(self) -> None:
        while True:
            try:
                status, page = self.ask("GET", "/work")
                slot = re.search(r'data-slot="(\d+)"', page)
                if status == 200 and slot is None:
                    return
                if slot is None:
                    time.sleep(0.2)
                    continue
                time.sleep(self.random.uniform(0.5, 1.5) * self.think)
                form_token = re.search(r'name="form_token" value="(\w+)"', page)
                choice = self.random.choice(CHOICES)
                fields = {"form_token": form_token[1] if form_token else "", "choice": choice, "seconds": "1"}
                status, _ = self.ask("POST", f"/work/{slot[1]}", urlencode(fields))
                if status == 303:
                    self.stored.append((int(slot[1]), choice))
            except OSError:
                time.sleep(0.1)


def main(base: str, think: float, tokens: list[str]) -> dict[str, Any]:
    crowd = [Annotator(base, token, think) for token in tokens]
    threads = [threading.Thread(target=one.work) for one in crowd]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "stored": [pair for one in crowd for pair in one.stored],
        "GET": [s for one in crowd for s in one.seconds["GET"]],
        "POST": [s for one in crowd for s in one.seconds["POST"]],
        "seconds": time.perf_counter() - begun,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:])))
