"""The database: what migrations make, versions, reopening, and what is refused."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlmodel import SQLModel, select

from accord.annotate import Project, assign, status
from accord.annotate.database import MIGRATIONS, Database, Item, NotStored
from accord.errors import InputError
from tests.annotate.conftest import PAIRS, made, person


def test_migrations_make_the_tables_that_the_models_describe(tmp_path: Path) -> None:
    database = Database(tmp_path / "labels.db")
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []


def test_a_database_of_the_first_version_is_brought_up_to_date(database: str, tmp_path: Path) -> None:
    """What slots said of a draw is their item's; answers, and who has what, are as they were."""
    project = made(tmp_path, database, overlap=2)
    project.add(PAIRS[:2])
    project.add_people(["ann"])
    ann = person(project, "ann")
    slot = assign.next_slot(project, ann)
    assert slot is not None
    assign.store(project, ann, slot.id or 0, {"better": 0, "strength": "much", "comment": ""}, 1.0)
    before = project.export(tmp_path / "before.jsonl").rows
    with project.database.engine.begin() as connection:
        alembic(connection, "downgrade", "0001")
        drawn = "UPDATE slot SET chosen_by = 'random', probability = 0.5 WHERE id ="
        connection.exec_driver_sql(f"{drawn} {slot.id}")
        columns = {column["name"] for column in inspect(connection).get_columns("item")}
    assert columns == {"id", "key", "task", "content", "gold", "position"}
    project.database.close()
    again = Project.open(database)
    assert again.export(tmp_path / "after.jsonl").rows == before
    with again.database.reading() as session:
        items = session.exec(select(Item.probability, Item.among, Item.weight, Item.chosen_by)).all()
    assert sorted(items, key=str) == [(0.5, 2, 1.0, "random"), (None, None, 1.0, "random")]


def alembic(connection: Connection, direction: str, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    getattr(command, direction)(config, revision)


def test_a_commit_is_written_through_and_foreign_keys_hold(tmp_path: Path) -> None:
    database = Database(tmp_path / "labels.db")
    with database.engine.connect() as connection:
        read = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
        assert [*read, connection.exec_driver_sql("PRAGMA foreign_keys").scalar()] == ["wal", 2, 1]  # 2 is FULL


def test_databases_of_a_newer_version_and_of_others_are_refused(tmp_path: Path) -> None:
    Project.open(tmp_path / "new.db").database.close()
    with sqlite3.connect(tmp_path / "new.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(InputError, match="was written by a newer accord .version 9999.: use that"):
        Project.open(tmp_path / "new.db")
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE cats (name TEXT)")
    with pytest.raises(InputError, match="is a database of something else"):
        Project.open(tmp_path / "other.db")
    (tmp_path / "text.db").write_text("this is no database, whatever its name says " * 100)
    with pytest.raises(InputError, match="cannot be opened .file is not a database."):
        Project.open(tmp_path / "text.db")
    with pytest.raises(InputError, match="must be a file in a folder that is there"):
        Project.open(tmp_path / "nowhere" / "labels.db")
    with pytest.raises(InputError, match="a file of SQLite or a postgresql:// URL, not mysql://host/x"):
        Project.open("mysql://user:secret@host/x")


def test_the_same_rows_add_nothing_and_an_id_has_one_content(tmp_path: Path) -> None:
    project = made(tmp_path)
    assert (project.add(PAIRS).new, project.add(PAIRS).new, project.add(PAIRS).known) == (6, 0, 6)
    with pytest.raises(InputError, match='row 1: the id "p0" is another item\'s already, with different content'):
        project.add([{**PAIRS[0], "chosen": "else"}])
    with pytest.raises(InputError, match="row 2: the id 'x' is that of row 1 already, with different content"):
        project.add([{**PAIRS[0], "id": "x"}, {**PAIRS[1], "id": "x"}])
    unnamed = [{k: v for k, v in row.items() if k != "id"} for row in PAIRS]
    assert (project.add(unnamed).new, project.add(unnamed).new) == (6, 0)  # known by what they hold
    assert project.progress().asked == 12


def test_an_overlap_is_raised_and_not_lowered(tmp_path: Path) -> None:
    project = made(tmp_path)
    project.add(PAIRS)
    project.add([{**PAIRS[0], "id": "gold"}], gold=True)
    assert project.progress().asked == 6
    again = Project.open(tmp_path / "labels.db", overlap=3)
    assert again.progress().asked == 18
    with pytest.raises(InputError, match="can be raised, not lowered to 2"):
        Project.open(tmp_path / "labels.db", overlap=2)


def test_links_are_hashed_and_end(tmp_path: Path) -> None:
    project = made(tmp_path)
    tokens = [*project.add_people(["ann"]).values(), project.new_owner()]
    assert all(len(token) == 43 for token in tokens)  # 256 bits in base64
    project.database.close()
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert not any(token.encode() in stored for token in tokens)
    with pytest.raises(InputError, match="the name ann is taken"):
        project.add_people(["ann"])
    assert list(project.add_people(3)) == ["annotator-1", "annotator-2"]
    with pytest.raises(InputError, match="there is no eve in .*labels.db: there is ann, annotator-1, annotator-2"):
        project.revoke("eve")


def damaged(path: Path, *statements: str) -> str:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return str(path)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DROP TABLE answer", "is damaged, or was changed by others .no such table: answer.: restore it from a copy"),
        ("UPDATE item SET content = '[1'", "holds what accord did not write .+: restore it from a copy"),
        ("UPDATE item SET content = '{\"prompt\": 3}'", "holds what accord did not write .+: restore it from a copy"),
        ("UPDATE alembic_version SET version_num = ''", "was written by a newer accord"),
    ],
)
def test_damage_that_is_met_later_is_a_sentence(statement: str, message: str, tmp_path: Path) -> None:
    project = Project.open(path := tmp_path / "labels.db")
    project.add([{"prompt": "q", "chosen": "a", "rejected": "b"}])
    project.add_people(["ann"])
    ann = person(project, "ann")
    slot = assign.next_slot(project, ann)
    assert slot is not None
    assign.store(project, ann, slot.id or 0, {"better": 0, "strength": "much", "comment": ""}, 1.0)
    project.database.close()
    with pytest.raises(InputError, match=message):
        Project.open(damaged(path, statement)).export(tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize("size", [1, 16, 99, 511, 4096])
def test_a_database_that_was_cut_short_is_not_begun_anew(size: int, tmp_path: Path) -> None:
    Project.open(path := tmp_path / "labels.db").database.close()
    path.write_bytes(content := path.read_bytes()[:size])
    with pytest.raises(InputError, match="labels.db cannot be opened"):
        Project.open(path)
    assert path.read_bytes() == content


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """A folder in which nothing can be written while the block lasts, whoever runs the tests."""
    folder.chmod(0o555)
    is_root = os.geteuid() == 0  # who may write anywhere
    closed = [above for above in folder.parents if is_root and above.stat().st_mode & 0o777 == 0o700]
    for above in closed:
        above.chmod(0o755)
    try:
        if is_root:
            os.seteuid(65534)
            if not os.access(MIGRATIONS / "versions", os.R_OK, effective_ids=True):
                pytest.skip("nobody but root can read accord here")
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for path in (folder, *closed):
            path.chmod(0o700)


@pytest.mark.parametrize("is_served", [False, True])
def test_where_nothing_can_be_written_a_database_is_read(is_served: bool, tmp_path: Path) -> None:
    (out := tmp_path / "out").mkdir()
    (folder := tmp_path / "theirs").mkdir()
    out.chmod(0o777)
    project = made(folder)
    project.add(PAIRS[:1])
    project.add_people(["ann"])
    ann = person(project, "ann")
    slot = assign.next_slot(project, ann)
    assert slot is not None
    assign.store(project, ann, slot.id or 0, {"better": 0, "strength": "much", "comment": ""}, 1.0)
    rows = project.export(tmp_path / "before.jsonl").rows
    if not is_served:
        project.database.close()
    path = folder / "labels.db"
    with unwritable(folder):
        there = sorted(folder.iterdir())
        assert len(there) == (3 if is_served else 1)  # a log and its index as long as it is open
        read = Project.open(path)
        assert read.export(out / "rows.jsonl").rows == rows
        assert [task.answers for task in status(read)] == [1]
        for change in (lambda: read.add_people(["bob"]), lambda: Project.open(path, overlap=2)):
            with pytest.raises(InputError, match=r"labels.db can only be read, since .*: copy it to a folder that can"):
                change()
        with pytest.raises(InputError, match=r"new.db cannot be made, since its folder cannot be written: name anot"):
            Project.open(folder / "new.db")
        assert sorted(folder.iterdir()) == there
    for one in there:
        shutil.copy(one, out)
    if is_served:
        project.database.close()
        (out / "labels.db-shm").unlink()
        said = r"cannot be opened .*: copy labels.db and labels.db-wal to a folder that can be written, and name the"
        with unwritable(out), pytest.raises(InputError, match=said):
            Project.open(out / "labels.db")


def test_a_database_that_can_only_be_read_is_told(tmp_path: Path) -> None:
    project = Project.open(tmp_path / "labels.db")
    said = "labels.db took nothing: it cannot be written .attempt to write a readonly"
    with pytest.raises(NotStored, match=said), project.database.writing() as session:
        for statement in ("PRAGMA query_only=ON", "DELETE FROM item"):
            session.exec(text(statement))  # type: ignore[call-overload]
