"""Files of every format become the same rows, and faults are told with their place."""

import bz2
import gzip
import json
import lzma
import tracemalloc

import pytest

from accord.data import load_data
from accord.data.readers import reader_of
from accord.data.sources import slice_indices
from accord.errors import InputError
from accord.records import Demonstration, Labeled, Message, Preference, Prompt, Ranking

ROWS = [{"prompt": "p", "completion": 'c,\n"d"'}, {"prompt": "q", "completion": "é"}]
RECORDS = [Demonstration("p", 'c,\n"d"'), Demonstration("q", "é")]
JSONL = "".join(json.dumps(row) + "\n\n" for row in ROWS)


def parquet(path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


def zstandard(path):
    import pyarrow

    with pyarrow.output_stream(str(path), compression="zstd") as file:
        file.write(JSONL.encode())


def arrow(path, kind):
    import pyarrow

    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.OSFile(str(path), "wb") as file, getattr(pyarrow.ipc, kind)(file, table.schema) as writer:
        writer.write_table(table)


WRITERS = {
    "rows.jsonl": lambda path: path.write_text(JSONL),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(JSONL.encode())),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "rows.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "lines.json": lambda path: path.write_text(JSONL),
    "rows.ndjson": lambda path: path.write_text("\ufeff" + JSONL.replace("\n", "\r\n"), encoding="utf-8"),
    "rows.csv": lambda path: path.write_text('prompt,completion\np,"c,\n""d"""\nq,é\n', encoding="utf-8"),
    "rows.tsv": lambda path: path.write_text('prompt\tcompletion\np\t"c,\n""d"""\nq\té\n', encoding="utf-8"),
    "rows.csv.bz2": lambda path: path.write_bytes(bz2.compress('prompt,completion\np,"c,\n""d"""\nq,é\n'.encode())),
    "rows.jsonl.xz": lambda path: path.write_bytes(lzma.compress(JSONL.encode())),
    "rows.jsonl.zst": zstandard,
    "rows.arrow": lambda path: arrow(path, "new_stream"),
    "rows.feather": lambda path: arrow(path, "new_file"),
    "rows.parquet": parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_records(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert load_data(tmp_path / name) == RECORDS
    assert load_data(str(tmp_path / name), limit=1) == RECORDS[:1]
    assert load_data(tmp_path / name, split="train[-1:]") == RECORDS[1:]


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion\np,c\n", encoding="utf-8-sig")
    assert load_data(tmp_path / "a.csv") == [Demonstration("p", "c")]


def test_csv_cells_are_text_except_labels_and_lists(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion,label\n1,NA,True\nnull,2,0\n")
    assert load_data(tmp_path / "a.csv") == [Labeled("1", "NA", True), Labeled("null", "2", False)]
    (tmp_path / "b.csv").write_text('prompt,completions,ranks\np,"[""x"", ""y""]","[1, 0]"\n')
    assert load_data(tmp_path / "b.csv") == [Ranking("p", ("x", "y"), (1, 0))]


def test_the_limit_stops_before_later_faults(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\nbroken\n')
    assert load_data(tmp_path / "a.jsonl", limit=1) == [Demonstration("", "a")]


def test_a_map_is_an_object(tmp_path):
    import pyarrow.parquet

    turn = pyarrow.map_(pyarrow.string(), pyarrow.string())
    chats = pyarrow.array([[[("role", "user"), ("content", "q")]]], pyarrow.list_(turn))
    pyarrow.parquet.write_table(pyarrow.table({"prompt": chats}), tmp_path / "a.parquet")
    assert load_data(tmp_path / "a.parquet") == [Prompt((Message("user", "q"),), {})]


def twice(form: str) -> bytes:
    """A table of two columns of one name, as a file."""
    import pyarrow.parquet

    table = pyarrow.table([["a"], ["b"]], names=["text", "text"])
    sink = pyarrow.BufferOutputStream()
    if form == "parquet":
        pyarrow.parquet.write_table(table, sink)
    else:
        with pyarrow.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


FAULTS = [
    ("a.jsonl", b'{"text": "a"}\n\n{"text": }\n', "line 3: not JSON (Expecting value at column 10)"),
    ("a.jsonl", b"[1]\n", "line 1: a row must be a JSON object, not a list"),
    ("a.jsonl", b'{"text": "\xff"}\n', "is not UTF-8 text (invalid start byte)"),
    ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: 'text' holds '\\ud800', which is not valid Unicode text"),
    ("a.jsonl", b"\n", "holds no rows"),
    ("a.jsonl.gz", b"plain", "cannot be read to its end"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9], "cannot be read to its end"),
    ("a.jsonl", b"", "holds no rows"),
    ("a.json", b" ", "holds no rows"),
    ("a.csv", b"", "holds no rows"),
    ("a.csv", b"text\n", "holds no rows"),
    ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
    ("a.csv", "text\na\n".encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
    ("a.jsonl", b'{"text": "a", "x": {"y": 1, "y": 2}}\n', "line 1: the key 'y' twice in an object"),
    ("a.json", b'[{"text": "a", "text": "b"}]', "the key 'text' twice in an object"),
    ("a.csv", b"text,label,text\na,1,b\n", "has two columns of the name 'text' in its header"),
    ("a.parquet", twice("parquet"), "has two columns of the name 'text' in its header"),
    ("a.arrow", twice("arrow"), "has two columns of the name 'text' in its header"),
    ("a.csv", b'prompt,completion\n"[{""role"": ""user"", ""role"": ""x""}]",b\n', "the key 'role' twice in an object"),
    ("a.csv", b"text,label\na\n", "row 1: fewer cells than the header has columns"),
    ("a.json", b'{"text": "a"}\n{"text": }\n', "line 2: not JSON (Expecting value at column 10)"),
    ("a.jsonl.zst", b"plain", "cannot be read to its end"),
    ("a.jsonl.xz", b"plain", "cannot be read to its end"),
    ("a.arrow", b"plain", "is not a readable Arrow file"),
    ("a.json", b'{"text":\n "a"}', "must hold a JSON list of objects, not an object"),
    ("a.csv", b'text\n"a\n', "not CSV"),
    ("a.jsonl", gzip.compress(b'{"text": "a"}\n', mtime=0), "is compressed by gzip: add .gz to its name"),
    ("a.json", b"PAR1", "is a Parquet file: name it .parquet"),
    ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of git-lfs in place of the data"),
    ("a.jsonl", b"<!DOCTYPE html><html></html>", "is a web page in place of the data: download the file itself"),
    ("a.jsonl", b'{"text": "a"}\n' + b"\0" * 9, "line 2: NUL characters"),
    ("a.jsonl", '{"text": "a"}\n'.encode("utf-16-le"), "line 1: NUL characters, as in UTF-16 text"),
    ("a.jsonl", b'{\n  "text": "a"\n}\n', "line 1: an object over several lines: write every row on one line"),
    ("a.json", b'{"prompt": {"0": "a", "1": "b"}, "text": {"0": "c", "1": "d"}}', "holds a table by columns"),
    ("a.json", b'{"prompt": ["a", "b"], "completion": ["c", "d"]}', "holds a table by columns, not by rows: write"),
    ("a.json", b'{"train": [{"text": "a"}], "test": [{"text": "b"}]}', "holds several lists of rows (train, test): wr"),
    ("a.tsv", b"prompt,text\na,b\n", "has commas between its columns, and no tabs: name it .csv"),
    ("a.csv", b"text\na,b\n", "row 1: more cells than the header has columns"),
    ("a.parquet", b"PAR1", "is not a readable Parquet file"),
    ("a.doc", b"a", "is none of the formats that can be read: .jsonl"),
]


def test_an_object_of_rows_by_their_ids(tmp_path):
    (tmp_path / "a.json").write_text(
        '{"x1": {"prompt": "a", "completion": "b"}, "x2": {"prompt": "c", "completion": "d"}}'
    )
    assert load_data(tmp_path / "a.json") == [Demonstration("a", "b"), Demonstration("c", "d")]


@pytest.mark.parametrize(("name", "content", "message"), FAULTS)
def test_faults_name_the_file_and_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_data(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name)) and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.jsonl", "folder/missing.parquet", "a/b/c", "missing.csv.gz"])
def test_a_missing_file_is_told(name):
    with pytest.raises(InputError, match=f"^there is no file {name}$"):
        load_data(name)


def test_a_folder_is_told(tmp_path):
    with pytest.raises(InputError, match=r"is a folder without data: it holds none of"):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("split", "rows"),
    [("train[:30%]", "ab"), ("train[50%:]", "efgh"), ("train[-25%:]", "gh"), ("train[25%:-1]", "cdefg")],
)
def test_parts_of_a_split_by_position_and_by_share(tmp_path, split, rows):
    letters = "abcdefgh"
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "{letter}"}}\n' for letter in letters))
    assert "".join(row.completion for row in load_data(tmp_path / "a.jsonl", split=split)) == rows
    assert "".join(letters[i] for i in slice_indices(len(letters), split, str(tmp_path / "a.jsonl"))) == rows


def test_a_split_that_a_file_does_not_have(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(InputError, match=r"there is no split 'test' here"):
        load_data(tmp_path / "a.jsonl", split="test")
    with pytest.raises(InputError, match=r"holds no rows in the split 'train\[5:\]'"):
        load_data(tmp_path / "a.jsonl", split="train[5:]")


def test_hub_names_go_to_datasets(monkeypatch):
    import datasets

    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        return datasets.Dataset.from_list([{"prompt": "p", "answer": "4"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_data("owner/name:main", split="test") == [Prompt("p", {"answer": "4"})]
    assert load_data("owner/name") == [Prompt("p", {"answer": "4"})]
    assert asked == [("owner/name", "main", "test"), ("owner/name", None, "train")]


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    import datasets

    def load_dataset(name, config, split):
        raise ConnectionError("Couldn't reach it\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError) as caught:
        load_data("owner/name")
    assert str(caught.value) == (
        "the Hub cannot be reached, and owner/name is not on this machine: try again, or give its files."
    )


def test_a_dataset_and_records_in_memory():
    import datasets

    assert load_data(datasets.Dataset.from_list(ROWS)) == RECORDS
    assert load_data(RECORDS, limit=1) == RECORDS[:1]
    assert load_data(iter(RECORDS)) == RECORDS


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "the data holds no rows"),
        ([3], "row 1: a row must be a dict of columns or a record, not of type int"),
        (
            {"train": ROWS},
            r"or a mapping from files to weights, not a mapping of train",
        ),
        ([Demonstration("a", "b"), Prompt("a")], "row 2: the row has the record Prompt, where the first row has"),
    ],
)
def test_objects_that_are_not_rows(source, message):
    with pytest.raises(InputError, match=message):
        load_data(source)


def test_a_text_is_read_in_passages_that_joined_are_the_text(tmp_path):
    """Paragraphs of 900 characters: after the third there are 2,000 and more, and the next one begins a passage."""
    paragraphs = ["word " * 179 + "end.\n\n\n" for _ in range(7)]
    (tmp_path / "a.txt").write_text("\n" + "".join(paragraphs))
    rows = load_data(tmp_path / "a.txt")
    assert [row.completion for row in rows] == ["\n" + "".join(paragraphs[:3]), "".join(paragraphs[3:6]), paragraphs[6]]
    lines = "a line of a poem without end\n" * 300
    (tmp_path / "b.md").write_text(lines)
    passages = [str(row.completion) for row in load_data(tmp_path / "b.md")]
    assert "".join(passages) == lines and [len(p) for p in passages] == [4002, 4002, 696]


def test_a_line_that_ends_a_document_is_in_no_passage(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\n\n<|endoftext|>\n<|endoftext|>\n  two <|endoftext|>\n"))
    assert [row.completion for row in load_data(tmp_path / "a.txt.gz")] == ["one\n\n", "  two <|endoftext|>\n"]


def test_of_a_long_text_a_passage_is_held_at_once(tmp_path):
    (tmp_path / "a.txt").write_text(("0123456789 " * 9 + "\n") * 40_000)
    tracemalloc.start()
    characters = sum(len(columns["text"]) for _, columns in reader_of(tmp_path / "a.txt")(tmp_path / "a.txt"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert characters == 4_000_000 and peak < 200_000


def test_rows_in_the_less_usual_forms_of_files(tmp_path):
    pairs = [Preference(f"p{i}", "a", "b") for i in range(2)]
    rows = [{"prompt": pair.prompt, "chosen": "a", "rejected": "b"} for pair in pairs]
    cells = [("prompt", "chosen", "rejected"), *((pair.prompt, "a", "b") for pair in pairs)]
    forms = {
        "list.jsonl": json.dumps(rows),
        "lines.jsonl": json.dumps(rows, indent=1),
        "object.json": json.dumps({"version": "1", "data": rows}),
        "bars.csv": "\n".join("|".join(row) for row in cells),
        "told.csv": "sep=;\r\n" + "\r\n".join(";".join(row) for row in cells),
        "blank.csv": "\n".join(f",{','.join(row)}," for row in cells),
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        assert load_data(tmp_path / name) == pairs, name
    (tmp_path / "one.json").write_text(json.dumps(rows[0]))
    assert load_data(tmp_path / "one.json") == pairs[:1]


def test_a_folder_s_other_splits_and_hidden_files_are_not_trained_on(tmp_path):
    for split, texts in (("train", "a"), ("test", "b"), (".cache", "c")):
        (tmp_path / "folders" / split).mkdir(parents=True)
        (tmp_path / "folders" / split / "rows.jsonl").write_text(json.dumps({"text": texts}))
    assert [row.completion for row in load_data(tmp_path / "folders")] == ["a"]
    assert [row.completion for row in load_data(tmp_path / "folders", split="test")] == ["b"]
    (tmp_path / "files").mkdir()
    for name in ("rows.jsonl", "test.jsonl", "._rows.jsonl"):
        (tmp_path / "files" / name).write_text(json.dumps({"text": name}))
    assert [row.completion for row in load_data(tmp_path / "files")] == ["rows.jsonl"]
    with pytest.raises(InputError, match="has no split dev: name one of its splits by --split: rows, test"):
        load_data(tmp_path / "files", split="dev")


def test_what_describes_the_data_of_a_folder_is_no_row(tmp_path):
    (tmp_path / "mine.jsonl").write_text(JSONL)
    (tmp_path / "dataset_info.json").write_text('{"mine": {"file_name": "mine.jsonl", "formatting": "sharegpt"}}')
    assert load_data(tmp_path) == RECORDS


def test_a_folder_of_texts_is_read_and_beside_rows_texts_are_not(tmp_path):
    (tmp_path / "b.md").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "c.py").write_text("no text")
    assert [row.completion for row in load_data(tmp_path)] == ["first", "second"]
    (tmp_path / "rows.jsonl").write_text(JSONL)
    assert load_data(tmp_path) == RECORDS


def test_faults_of_texts_are_told(tmp_path):
    (tmp_path / "a.txt").write_text(" \n\n")
    with pytest.raises(InputError, match=r"a\.txt holds no rows$"):
        load_data(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("short\n" + "x" * 10_000_001)
    with pytest.raises(InputError, match=r"b\.txt, line 2: a line of more than 10,000,000 characters; break it$"):
        load_data(tmp_path / "b.txt")


@pytest.mark.parametrize(("packed", "suffix"), [(gzip.compress, ".gz"), (bz2.compress, ".bz2"), (lzma.compress, ".xz")])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt"])
def test_a_file_that_unfolds_without_measure_is_refused(packed, suffix, name, tmp_path, monkeypatch):
    monkeypatch.setattr("accord.data.text_files.MIN_LIMIT", 1_000_000)
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(packed(b'{"prompt": "p", "completion": "' + b"c" * 9_000_000 + b'"}\n'))
    with pytest.raises(InputError, match=rf"^{path} expands to more than 200 times its size"):
        load_data(path)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow"])
@pytest.mark.parametrize("kind", ["date", "duration", "zone", "text"])
def test_a_value_that_python_has_none_for_names_its_column(kind, name, tmp_path):
    import pyarrow
    import pyarrow.parquet

    text = [None, pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"\xff\xfe")]
    odd = {
        "date": lambda: pyarrow.array([2**30], pyarrow.date32()),
        "duration": lambda: pyarrow.array([2**62], pyarrow.duration("s")),
        "zone": lambda: pyarrow.array([1], pyarrow.timestamp("us", tz="Mars/Base")),
        "text": lambda: pyarrow.Array.from_buffers(pyarrow.string(), 1, text),
    }
    table = pyarrow.table({"prompt": ["p"], "completion": ["c"], "odd": odd[kind]()})
    path = tmp_path / name
    if name == "rows.parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(InputError, match=rf"^{path}: the column 'odd' has a value that cannot be read"):
        load_data(path)


def test_a_column_whose_name_is_no_text_is_told(tmp_path):
    import pyarrow

    path, schema = tmp_path / "rows.arrow", pyarrow.schema([("prompt", pyarrow.string())])
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, schema) as writer:
        writer.write_table(pyarrow.table({"prompt": ["p"]}))
    path.write_bytes(path.read_bytes().replace(b"prompt", b"pro\xefpt"))
    with pytest.raises(InputError, match=rf"^{path} is not a readable Arrow file .'utf-8' codec can't decode"):
        load_data(path)
