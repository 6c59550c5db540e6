"""YAML and JSON as people write them: nothing is lost, and nothing unfolds without end."""

import os
import threading
import time
from pathlib import Path

import pytest
import yaml

from accord.errors import InputError
from accord.parsing import Repeated, parse_json, parse_untyped, parse_yaml, read_content, read_yaml


def bomb(lists, of):
    """YAML that unfolds to about `of` to the power of `lists` values."""
    lines = [f"l0: &l0 [{', '.join('x' * of)}]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * of)}]" for i in range(1, lists)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb:\n  c: 2\n  c: 3", "line 4: the key 'c' twice in a mapping"),
        ("{a: {b: 1, 'b': 2}}", "line 1: the key 'b' twice"),
        ("1: a\n0x1: b", "line 2: the key '0x1' twice"),
        ("<<: {a: 1}\n<<: {a: 2}", "line 2: the key '<<' twice"),
        (bomb(9, 10), "its aliases expand to 1,234,567,[0-9]+ values, more than the 100,000 allowed"),
        (bomb(3, 60) + "\nm: {<<: *l0}", "its aliases expand to"),
        ("a: &a [*a]", "line 1: a value that contains itself"),
        ("a: " + "[" * 101 + "]" * 101, "it is nested 102 deep, more than the 100 allowed"),
        ("a: " + "[" * 5000 + "]" * 5000, "it is nested too deeply"),
        ("a: " + "1" * 5000, r"a value cannot be read \(Exceeds the limit"),
        ("a: {model: ${sft}/model}", r"line 1: .*; within { } and \[ \], put what has \$\{...} in it in quotes"),
        ("a: [1", "line 1: expected ',' or ']'"),
        ("a: !!python/object:os.system x", "line 1: could not determine a constructor"),
        ("[a]: 1", "line 1: found unhashable key"),
    ],
)
def test_yaml_that_loses_something_or_unfolds_is_told_by_its_line(text, told, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"the recipe .*x.yaml is not valid YAML: {told}"):
        read_yaml(tmp_path / "x.yaml", "the recipe")


def test_yaml_is_read_as_the_safe_loader_reads_it(monkeypatch):
    text = "a: &a {b: 1, c: [1.5, ~, 0x1f, -3, 1_000, .inf, 0, 1.5e-3]}\nd: {<<: *a, b: 2}\n1: x\ntrue: y\n'1': z\n"
    text = text.replace("true", "false")  # which no key equals
    assert parse_yaml(text) == yaml.safe_load(text) and parse_yaml("") is None
    assert parse_yaml("[2020-01-02, 2020-13-45, 2020-01-02 10:00]") == ["2020-01-02", "2020-13-45", "2020-01-02 10:00"]
    assert parse_yaml("[1:30, 1:30.5, -1:30, 010, -07, 00]") == ["1:30", "1:30.5", "-1:30", "010", "-07", "00"]
    assert parse_yaml("{yes: no, On: OFF, true: FALSE}") == {"yes": "no", "On": "OFF", True: False}
    assert [parse_untyped(text) for text in ("no", "On", "2.5", "north", "010")] == [False, True, 2.5, "north", "010"]
    assert parse_yaml(text.encode()) == yaml.safe_load(text)
    with pytest.raises(yaml.YAMLError, match="line 2: the key 'true' twice"):  # Python has one key for both
        parse_yaml("1: x\ntrue: y")
    assert len(parse_yaml(bomb(2, 60))["l1"]) == 60
    monkeypatch.setattr("accord.parsing.MOST", 1000)
    assert len(parse_yaml("[" + "1, " * 1000 + "1]")) == 1001  # long, and nothing unfolds


def test_json_with_a_key_twice_is_refused():
    assert parse_json('{"a": {"b": 1}, "b": [{"a": 1}, {"a": 2}]}') == {"a": {"b": 1}, "b": [{"a": 1}, {"a": 2}]}
    with pytest.raises(Repeated, match="the key 'b' twice in an object"):
        parse_json('{"a": [{"b": 1, "c": 2, "b": 1}]}')


def test_yaml_has_one_loader():
    sources = (Path(__file__).parents[1] / "accord").rglob("*.py")
    assert [p.name for p in sources if "yaml.safe_load" in p.read_text() or "yaml.load" in p.read_text()] == []


def test_a_pipe_is_read_to_its_end_and_not_waited_for_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr("accord.parsing.PATIENCE", 0.3)
    os.mkfifo(pipe := tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a pipe that nobody writes to"):
        read_content(pipe)
    monkeypatch.undo()

    def write():
        time.sleep(0.1)  # so that it is opened first by who reads
        with pipe.open("wb", buffering=0) as file:
            file.write(b"a" * 200_000)
            time.sleep(0.1)
            file.write(b"b")

    writer = threading.Thread(target=write)
    writer.start()
    assert read_content(pipe) == b"a" * 200_000 + b"b"
    writer.join()


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/proc/self/mem", "/nowhere", "/", "/" + "a" * 300])
def test_what_is_no_file_to_read_is_told(path):
    with pytest.raises(InputError, match=f"^the recipe {path} cannot be read: "):
        read_yaml(path, "the recipe")
