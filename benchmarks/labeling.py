"""A labeling run that is killed five times, and its server three: is any verdict lost, or any reply asked for twice?

    python benchmarks/labeling.py --out /tmp/labeling

500 comparisons, each in both orders, are asked of SmolLM2 behind `transformers serve`, on this machine. It is asked
what it can do, to repeat a letter, so that its verdicts differ. Between the two stands a proxy that looks, when a
request comes, whether its reply is in the journal already. Afterwards the same journal makes the file again, and
another run that nobody kills makes it anew. Prints what it found as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request as Sent
from urllib.request import urlopen

from accord.engine.folders import locate
from accord.engine.networks import smollm2
from accord.files import write_rows
from accord.prompting.journal import Journal
from accord.prompting.options import AskOptions, prompted
from accord.prompting.requests import Request
from accord.records import Message

REAL, PROXY = 8911, 8912
LABELER_KILLED = (0.1, 0.3, 0.5, 0.7, 0.9)
SERVER_KILLED = (0.2, 0.45, 0.8)
"""When either is killed, as a share of the requests that are answered."""


class Proxy(ThreadingHTTPServer):
    """Hands requests on to the real server, and counts those whose replies are kept already."""

    daemon_threads = True

    def __init__(self, journal: Path, key: Any, max_tokens: int) -> None:
        super().__init__(("127.0.0.1", PROXY), Handler)
        self.journal, self.key, self.max_tokens = journal, key, max_tokens
        self.counts, self.times = Counter[str](), Counter[str]()
        self.lock = threading.Lock()

    def see(self, body: dict[str, Any]) -> None:
        messages = tuple(Message(m["role"], m["content"]) for m in body["messages"])
        key = self.key(Request(prompt=messages, max_tokens=self.max_tokens, choices=("A", "B")))
        is_kept = self.journal.exists() and f'"{key}", "text": "' in self.journal.read_text()
        with self.lock:
            self.counts["requests"] += 1
            self.counts["asked though kept"] += is_kept
            self.times[key] += 1


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(data)
        self.server.see(body)
        try:
            sent = Sent(f"http://127.0.0.1:{REAL}{self.path}", data, {"Content-Type": "application/json"})
            with urlopen(sent, timeout=300) as reply:
                status, content = reply.status, reply.read()
        except HTTPError as error:
            status, content = error.code, error.read()
        except (URLError, OSError):
            self.server.counts["broken off"] += 1
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        try:
            self.wfile.write(content)
            self.server.counts[f"replies of status {status}"] += 1
        except OSError:
            self.server.counts["asked by a run that was killed"] += 1


def serve(model: str, log: Path) -> subprocess.Popen[bytes]:
    """The real server, once it answers."""
    module = ("-m", "transformers.cli.transformers", "serve")
    words = [sys.executable, *module, model, "--port", str(REAL), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with log.open("ab") as file:
        server = subprocess.Popen(words, stdout=file, stderr=file, env=environment, start_new_session=True)
    while True:
        if server.poll() is not None:
            raise SystemExit(log.read_text()[-2000:])
        try:
            urlopen(f"http://127.0.0.1:{REAL}/health").close()
            return server
        except OSError:
            time.sleep(0.5)


def kill(process: subprocess.Popen[Any]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--comparisons", type=int, default=500)
    out, count = (given := parser.parse_args()).out, given.comparisons
    out.mkdir(parents=True)
    model = str(locate(str(smollm2()))[0])
    answers = ("A for the number {}", "B for the number {}")
    write_rows(out / "samples.jsonl", [
        {"prompt": f"Which number is more, {i} or {i + 7}?", "completion": answer.format(i + 7 * (answer > "B"))}
        for i in range(count)
        for answer in answers
    ])  # fmt: skip
    settings = {"model": model, "server": f"http://127.0.0.1:{PROXY}/v1", "max_tokens": 1, "retries": 4, "parallel": 4}
    (out / "judge.yaml").write_text(json.dumps({**settings, "template": TEMPLATE}))
    known = Journal(prompted(AskOptions(model=model, server=settings["server"])), out / "unused")
    pairs, journal = out / "pairs.jsonl", out / "pairs.jsonl.journal"
    words = [
        sys.executable,
        "-m",
        "accord",
        "label",
        "--data",
        out / "samples.jsonl",
        "--judge",
        out / "judge.yaml",
        "--soft",
    ]
    began, runs = time.time(), list[int]()
    with Proxy(journal, known.key, 1) as proxy, (out / "log").open("ab") as log:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()

        def label(file: Path) -> subprocess.Popen[Any]:
            return subprocess.Popen([*words, "--out", file], stdout=log, stderr=log, start_new_session=True)

        server, run = serve(model, out / "server.log"), label(pairs)
        goals = sorted([*((s, "run") for s in LABELER_KILLED), *((s, "server") for s in SERVER_KILLED)])
        while (code := run.poll()) != 0:
            if code is not None:
                runs.append(code)
                if len(runs) > 40:
                    kill(server)
                    raise SystemExit((out / "log").read_text()[-2000:])
                time.sleep(5)
                run = label(pairs)
            if goals and lines(journal) >= goals[0][0] * 2 * count:
                if goals.pop(0)[1] == "run":
                    kill(run)
                    runs.append(-9)
                    run = label(pairs)
                else:
                    kill(server)
                    server = serve(model, out / "server.log")
            time.sleep(0.05)
        seconds = time.time() - began
        before = proxy.counts["requests"]
        subprocess.run([*words, "--out", out / "again.jsonl", "--journal", journal], check=True, stderr=log)
        asked_again = proxy.counts["requests"] - before
        counts, times = dict(proxy.counts), list(proxy.times.values())
        proxy.journal = out / "whole.jsonl.journal"
        subprocess.run([*words, "--out", out / "whole.jsonl"], check=True, stderr=log)
        kill(server)
        proxy.shutdown()
    first = pairs.read_bytes()
    print(json.dumps({
        "comparisons": count, "preferences": len(first.splitlines()), "runs that ended otherwise": runs,
        "labeler killed": runs.count(-9), "server killed": len(SERVER_KILLED), "seconds": round(seconds),
        "replies kept": len({json.loads(x)["key"] for x in journal.read_text().splitlines()[1:]
                             if json.loads(x)["text"] is not None}),
        "proxy": counts, "requests sent more than once": sum(n - 1 for n in times),
        "asked by the same journal": asked_again,
        "same journal, same file": (out / "again.jsonl").read_bytes() == first,
        "never killed, same file": (out / "whole.jsonl").read_bytes() == first,
    }, indent=1))  # fmt: skip


TEMPLATE = "(Another says {second}.)\n\nRepeat after me, one letter: {first}"

if __name__ == "__main__":
    main()
