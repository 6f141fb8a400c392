"""The servers that come along: nothing outlives its owner, nothing that was committed is lost."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg
import pytest

from bichat.config import Config
from bichat.embedded import attached_or_owned, owned, with_secrets
from bichat.embedded.account import Account
from bichat.embedded.runtime import Runtime
from bichat.embedded.smollm import weights
from bichat.errors.unusable import DataDirectoryTaken, PartFailed, WrongSetting

NO_MODEL = "http://127.0.0.1:9/v1"
STORES = ("database_url", "redis_url")
OWNER = """
import sys, time
from pathlib import Path
from bichat.config import Config
from bichat.embedded import owned
with owned(Config(bichat_data_dir=Path(sys.argv[1]), openai_base_url=sys.argv[2] or None)) as servers:
    print(servers.config.database_url, *(part.pid for part in servers.parts), flush=True)
    time.sleep(60)
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(bichat_data_dir=tmp_path / "data", openai_base_url=NO_MODEL)


@contextmanager
def owner(directory: Path, model: str = NO_MODEL) -> Iterator[tuple[subprocess.Popen[str], str, list[int]]]:
    """Another process that owns `directory`; its database's URL and the pids of its servers."""
    argv = [sys.executable, "-c", OWNER, str(directory), model]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url, *pids = process.stdout.readline().split()
            yield process, url, [int(pid) for pid in pids]
        finally:
            process.kill()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def eventually(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


def note(url: str, word: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("create table if not exists notes (word text)")
        connection.execute("insert into notes values (%s)", (word,))


def notes(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [word for (word,) in connection.execute("select word from notes order by word")]


def test_killing_the_owner_stops_all_its_servers(tmp_path: Path) -> None:
    with owner(tmp_path / "data", model="") as (process, _, pids):
        assert len(pids) == (3 if weights() else 2)
        process.kill()
        assert all(eventually(lambda pid=pid: gone(pid)) for pid in pids)  # type: ignore[misc]


def test_the_small_model_is_asked_for_answers_and_nothing_else(tmp_path: Path) -> None:
    """It has one thread: who waits for an answer would wait for a label first."""
    stores = {"database_url": "postgresql://x/y", "redis_url": "redis://x"}
    with owned(Config(bichat_data_dir=tmp_path / "data", **stores)) as servers:  # type: ignore[arg-type]
        comes_along = weights() is not None
        assert servers.config.bichat_auto_label == (not comes_along)
        assert servers.config.bichat_functions == (not comes_along)


def test_what_was_committed_is_there_after_killing_everything(tmp_path: Path, config: Config) -> None:
    with owner(config.bichat_data_dir) as (process, url, pids):
        note(url, "kept")
        for pid in (process.pid, *pids):
            os.kill(pid, signal.SIGKILL)
    with owned(config) as servers:
        assert servers.config.database_url is not None
        assert notes(servers.config.database_url) == ["kept"]


def test_a_second_owner_is_refused_and_others_attach(config: Config) -> None:
    with owner(config.bichat_data_dir) as (process, url, _):
        with pytest.raises(DataDirectoryTaken) as refusal, owned(config):
            pass
        assert f"in use by process {process.pid}" in str(refusal.value)
        with attached_or_owned(config, *STORES) as attached:
            assert attached.database_url == url
            note(url, "seen by both")
        assert notes(url) == ["seen by both"]  # leaving does not stop what is not ours
    with attached_or_owned(config, *STORES) as alone:  # nobody owns it now: servers of our own
        assert alone.database_url != url


def test_servers_given_by_url_need_no_data_directory(tmp_path: Path) -> None:
    given = Config(database_url="postgresql://x/y", redis_url="redis://x", bichat_data_dir=tmp_path / "data")
    with attached_or_owned(given, *STORES) as config:
        assert config is given
    assert not given.bichat_data_dir.exists()


def test_a_long_path_with_odd_characters_and_a_half_made_cluster(tmp_path: Path) -> None:
    directory = tmp_path / ("long " * 20).strip() / 'o\'clock "é"' / "data"
    (directory / "postgres.making" / "base").mkdir(parents=True)
    with owned(Config(bichat_data_dir=directory, openai_base_url=NO_MODEL)) as servers:
        assert servers.config.database_url is not None
        note(servers.config.database_url, "written")
        assert len(f"{servers.config.redis_url}") < 100


def test_a_stale_pid_file_does_not_harm_whom_it_names_nor_who_is_there(config: Config) -> None:
    with owned(config):
        pass
    home = config.bichat_data_dir / "postgres"
    stranger = subprocess.Popen(["sleep", "60"], cwd=home)
    try:
        pid_file = home / "postmaster.pid"
        pid_file.write_text(f"{stranger.pid}\n/somewhere\n0\n5432\n/tmp\n\n\n")
        with owned(config) as servers:
            assert servers.parts[0].exit_status is None
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_that_cannot_start_says_why_in_one_line(config: Config) -> None:
    with owned(config):
        pass
    (config.bichat_data_dir / "postgres" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(PartFailed) as failure, owned(config):
        pass
    assert "Postgres did not start: " in str(failure.value)
    assert "FATAL" in str(failure.value)
    assert "\n" not in str(failure.value)
    with pytest.raises(PartFailed), owned(config):  # and it let go of the directory
        pass


def test_nothing_is_readable_by_others(config: Config) -> None:
    with owned(config) as servers:
        servers.answers_at("http://127.0.0.1:1")
        for name in ("secrets.json", "servers.json", "lock"):
            assert stat.S_IMODE((config.bichat_data_dir / name).stat().st_mode) == 0o600
        sockets = Path(str(servers.config.redis_url).removeprefix("unix://")).parent
        for directory in (config.bichat_data_dir, sockets):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not sockets.exists()
    assert not (config.bichat_data_dir / "servers.json").exists()


def test_what_the_killed_left_behind_is_swept_up_and_what_is_held_is_not() -> None:
    code = "from bichat.embedded.runtime import *; print(Runtime(Account()).path, flush=True); os.kill(0, 9)"
    argv = [sys.executable, "-c", code]
    killed = subprocess.run(argv, stdout=subprocess.PIPE, text=True, start_new_session=True, check=False)
    left, held = Path(killed.stdout.strip()), Runtime(Account())
    assert left.exists()
    for path in (left, held.path):
        os.utime(path, (0, 0))
    Runtime(Account()).close()
    assert (left.exists(), held.path.exists()) == (False, True)
    held.close()


def test_secrets_are_made_once_and_kept(config: Config) -> None:
    with ThreadPoolExecutor(4) as threads:  # the first of several wins
        found = list(threads.map(with_secrets, [config] * 4))
    assert len({(c.bichat_jwt_secret, c.bichat_master_key) for c in (*found, with_secrets(config))}) == 1
    assert len(found[0].bichat_master_key or b"") == 32
    given = msgspec.structs.replace(config, bichat_jwt_secret="s" * 32)
    assert with_secrets(given).bichat_jwt_secret == "s" * 32
    assert with_secrets(given).bichat_master_key == found[0].bichat_master_key


@pytest.mark.parametrize("content", [b"", b"{}", b'{"jwt_secret": 1, "master_key": ""}'])
def test_spoiled_secrets_are_not_replaced(config: Config, content: bytes) -> None:
    config.bichat_data_dir.mkdir()
    (config.bichat_data_dir / "secrets.json").write_bytes(content)
    with pytest.raises(WrongSetting, match=r"BICHAT_DATA_DIR: .*secrets\.json"):
        with_secrets(config)
    assert (config.bichat_data_dir / "secrets.json").read_bytes() == content


def test_a_data_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(WrongSetting, match="BICHAT_DATA_DIR"),
        owned(Config(bichat_data_dir=tmp_path / "file")),
    ):
        pass
