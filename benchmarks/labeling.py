"""Does `accord label` lose verdicts, or ask twice, when it is killed five times and its server three times?

    python benchmarks/labeling.py --out /tmp/labeling

500 comparisons, each in both orders, are sent to SmolLM2 behind `transformers serve` on this machine. The question is
one that SmolLM2 can answer, to repeat a letter, so that verdicts differ. A proxy between the two checks for every
request whether the journal already has the reply. Then the same journal is used to write the file again, and another
run writes it from scratch without being killed.

Prints counts and comparisons as JSON. Takes about a quarter of an hour on two cores.
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
from dataclasses import dataclass
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
"""Ports."""
SERVER = f"http://127.0.0.1:{PROXY}/v1"
TEMPLATE = "(Another says {second}.)\n\nRepeat after me, one letter: {first}"
LABELER_KILLED = (0.1, 0.3, 0.5, 0.7, 0.9)
SERVER_KILLED = (0.2, 0.45, 0.8)
"""When each is killed, as a share of the requests that have been answered."""


class Proxy(ThreadingHTTPServer):
    """Forwards requests to the real server, and counts those whose reply the journal already has."""

    daemon_threads = True

    def __init__(self, journal: Path, key: Any, max_tokens: int) -> None:
        super().__init__(("127.0.0.1", PROXY), Handler)
        self.journal, self.key, self.max_tokens = journal, key, max_tokens
        self.counts, self.times = Counter[str](), Counter[str]()
        self.lock = threading.Lock()

    def count(self, body: dict[str, Any]) -> None:
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
        self.server.count(body)
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
    """Start the real server, and wait until it answers."""
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
    """The number of replies in the journal."""
    return journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0


@dataclass(frozen=True)
class Study:
    """The files of the study in `out`, and how its processes are started."""

    out: Path
    model: str
    comparisons: int

    @property
    def pairs(self) -> Path:
        return self.out / "pairs.jsonl"

    @property
    def journal(self) -> Path:
        return self.out / "pairs.jsonl.journal"

    def write(self) -> None:
        """Write the samples to compare, and the judge."""
        answers = ("A for the number {}", "B for the number {}")
        write_rows(self.out / "samples.jsonl", [
            {"prompt": f"Which number is more, {i} or {i + 7}?", "completion": answer.format(i + 7 * (answer > "B"))}
            for i in range(self.comparisons)
            for answer in answers
        ])  # fmt: skip
        settings = {"model": self.model, "server": SERVER, "max_tokens": 1, "retries": 4, "parallel": 4}
        (self.out / "judge.yaml").write_text(json.dumps({**settings, "template": TEMPLATE}))

    def serve(self) -> subprocess.Popen[bytes]:
        return serve(self.model, self.out / "server.log")

    def label(self, file: Path, *more: object) -> subprocess.Popen[Any]:
        """Start `accord label`."""
        words = ["--data", self.out / "samples.jsonl", "--judge", self.out / "judge.yaml", "--soft", "--out", file]
        command = [sys.executable, "-m", "accord", "label", *map(str, (*words, *more))]
        with (self.out / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def label_once(self, file: Path, *more: object) -> None:
        """Run `accord label`, which must succeed."""
        if self.label(file, *more).wait():
            raise SystemExit((self.out / "log").read_text()[-2000:])


def label_while_killing(study: Study) -> tuple[subprocess.Popen[bytes], list[int]]:
    """Label with kills, starting again until it succeeds; the last server, and the exit codes of the failed runs."""
    codes = list[int]()
    server, run = study.serve(), study.label(study.pairs)
    goals = sorted([*((s, "run") for s in LABELER_KILLED), *((s, "server") for s in SERVER_KILLED)])
    while (code := run.poll()) != 0:
        if code is not None:
            codes.append(code)
            if len(codes) > 40:
                kill(server)
                raise SystemExit((study.out / "log").read_text()[-2000:])
            time.sleep(5)
            run = study.label(study.pairs)
        if goals and lines(study.journal) >= goals[0][0] * 2 * study.comparisons:
            if goals.pop(0)[1] == "run":
                kill(run)
                codes.append(-9)
                run = study.label(study.pairs)
            else:
                kill(server)
                server = study.serve()
        time.sleep(0.05)
    return server, codes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--comparisons", type=int, default=500, help="how many to label")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    study = Study(given.out, str(locate(str(smollm2()))[0]), given.comparisons)
    study.write()
    known = Journal(prompted(AskOptions(model=study.model, server=SERVER)), study.out / "unused")
    began = time.time()
    with Proxy(study.journal, known.key, 1) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        server, codes = label_while_killing(study)
        seconds, before = time.time() - began, proxy.counts["requests"]
        again, whole = study.out / "again.jsonl", study.out / "whole.jsonl"
        study.label_once(again, "--journal", study.journal)
        asked_again = proxy.counts["requests"] - before
        counts, times = dict(proxy.counts), list(proxy.times.values())
        proxy.journal = study.out / "whole.jsonl.journal"
        study.label_once(whole)
        kill(server)
        proxy.shutdown()
    first, replies = study.pairs.read_bytes(), map(json.loads, study.journal.read_text().splitlines()[1:])
    print(json.dumps({
        "comparisons": study.comparisons, "preferences": len(first.splitlines()), "exit codes of failed runs": codes,
        "labeler killed": codes.count(-9), "server killed": len(SERVER_KILLED), "seconds": round(seconds),
        "replies kept": len({reply["key"] for reply in replies if reply["text"] is not None}),
        "proxy": counts, "requests sent more than once": sum(n - 1 for n in times),
        "requests with the same journal": asked_again,
        "same journal, same file": again.read_bytes() == first,
        "never killed, same file": whole.read_bytes() == first,
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
