from __future__ import annotations

import pytest
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection
from sqlalchemy.exc import OperationalError

from bfo_diag.errors import DiagError, WorkspaceError
from bfo_diag.probes.sweep import storage
from bfo_diag.probes.sweep.place import Place


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (None, "journal"),
        ("sqlite:///study.db", "sqlite:///study.db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgresql://me@host/db?sslmode=require", "postgresql://me@host/db?sslmode=require"),
        ("postgresql://me:se/c:r@et@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("mysql+pymysql://:secret@host/db", "mysql+pymysql://:***@host/db"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("postgresql:///db?sslpassword=secret", "postgresql:///db?sslpassword=***"),
        ("redis://:se\ncret@host", "redis://:***@host"),
    ],
)
def test_of_a_url_all_but_passwords_may_be_shown(url, shown):
    assert storage.shown(url) == shown
    if url is not None:
        assert storage.shown(shown) == shown


def test_the_url_with_its_password_comes_from_the_environment(monkeypatch):
    url = "postgresql://me:secret@host/db"
    monkeypatch.setenv(storage.VARIABLE, url)
    assert storage.given("postgresql://me:***@host/db") == url
    assert storage.given("sqlite:///study.db") == "sqlite:///study.db"
    assert storage.given(None) is None
    monkeypatch.setenv(storage.VARIABLE, "postgresql://me:secret@elsewhere/db")
    with pytest.raises(DiagError, match=r"the password of postgresql://me:\*\*\*@host/db is not known here") as refused:
        storage.given("postgresql://me:***@host/db")
    assert storage.VARIABLE in refused.value.mend


def journal(folder):
    return storage.opened(None, folder)


def test_a_line_that_a_killed_writer_left_unfinished_is_cut_off(tmp_path):
    journal(tmp_path).create_new_study([StudyDirection.MINIMIZE], "one")
    whole = (tmp_path / "journal.log").read_bytes()
    (tmp_path / "journal.log").write_bytes(whole + b'{"op_code": 2, "worker_id": "half')
    again = journal(tmp_path)
    again.create_new_study([StudyDirection.MINIMIZE], "two")
    assert [study.study_name for study in journal(tmp_path).get_all_studies()] == ["one", "two"]
    assert (tmp_path / "journal.log").read_bytes().startswith(whole)


def test_a_first_line_that_was_cut_short_leaves_an_empty_journal(tmp_path):
    (tmp_path / "journal.log").write_bytes(b'{"op_code"')
    journal(tmp_path).create_new_study([StudyDirection.MINIMIZE], "one")
    assert [study.study_name for study in journal(tmp_path).get_all_studies()] == ["one"]


def test_what_is_no_journal_is_refused_by_its_name(tmp_path):
    (tmp_path / "journal.log").write_text("something\nelse\n")
    with pytest.raises(DiagError, match=r"journal\.log is no journal of Optuna"):
        journal(tmp_path)


def test_what_goes_wrong_with_a_database_is_told_without_the_password():
    url = "postgresql://me:secret@host/db"
    for error in (OperationalError(url, {}, Exception("no route\nto host")), StorageInternalError("no route")):
        with pytest.raises(DiagError) as told, storage.errors_told(url):
            raise error
        assert told.value.message == "the storage postgresql://me:***@host/db: no route"
        assert "sweep resume" in told.value.mend
    with pytest.raises(WorkspaceError, match="No space left"), storage.errors_told(None):
        raise OSError(28, "No space left", "journal.log")


def test_a_database_that_two_make_at_once_is_tried_again(tmp_path, monkeypatch):
    import optuna

    made, tries = optuna.storages.RDBStorage, []

    def once_refused(*arguments, **options):
        tries.append(arguments)
        if len(tries) == 1:
            raise OperationalError("CREATE TABLE", {}, Exception("table studies already exists"))
        return made(*arguments, **options)

    monkeypatch.setattr(optuna.storages, "RDBStorage", once_refused)
    storage.opened(f"sqlite:///{tmp_path}/study.db", tmp_path).create_new_study([StudyDirection.MINIMIZE], "one")
    assert len(tries) == 2


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg2://u:p@hidden@127.0.0.1:1/db", "its password holds @ or : as they are"),
        ("postgresql://u:p:hidden@127.0.0.1:1/db", "its password holds @ or : as they are"),
        ("postgresql://u:hidden@host:port/db", "can't be read as a URL"),
    ],
)
def test_a_url_that_a_driver_would_print_is_refused_without_its_password(url, said, tmp_path):
    with pytest.raises(DiagError, match=said) as raised:
        storage.opened(url, tmp_path)
    assert "hidden" not in str(raised.value)


def test_a_journal_with_lines_of_another_kind_is_an_error_that_names_it(tmp_path):
    storage.opened(None, tmp_path)
    with (tmp_path / "journal.log").open("a") as file:
        file.write("[1]\n")
    with pytest.raises(DiagError, match=r"journal\.log is no journal of Optuna, or a damaged one"):
        storage.opened(None, tmp_path)


def test_a_study_that_was_begun_and_not_filled_says_how_it_goes_on(tmp_path):
    place = Place.found(tmp_path, "base", None)
    storage.opened(None, place.folder)
    with pytest.raises(DiagError, match="the study base was begun, and has no arms so far") as raised:
        place.there()
    assert raised.value.mend == "bfo-diag sweep run SPEC does that"
