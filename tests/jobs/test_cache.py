import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import ROOT, unused_pid

from mammo_mlflow.errors import UserError
from mammo_mlflow.jobs.cache import Cache

KB = 1000


@pytest.fixture
def cache(tmp_path):
    """A cache of at most 10 kB."""
    return Cache(tmp_path / "cache", 10 * KB / 1e9)


def add(cache, key, size=3 * KB, age=0):
    cache.make_room(size)
    with cache.creating(key, {}) as target:
        target.write_bytes(b"x" * size)
    cache.release()
    path = cache.root / "activations" / key / "entry.json"
    os.utime(path, (time.time() - age,) * 2)


def lease(cache, key, pid, born):
    (cache.root / "activations" / key / f"lease-{pid}-{born}").touch()


def test_an_entry_is_found_once_it_is_whole(cache):
    assert cache.find("a") is None
    with cache.creating("a", {"cut": 1}) as target:
        target.write_bytes(b"half")
        assert not cache.has("a")
        assert cache.find("a") is None
    assert cache.find("a").read_bytes() == b"half"


def test_an_entry_that_failed_is_not_there(cache):
    with pytest.raises(RuntimeError), cache.creating("a", {}) as target:
        target.write_bytes(b"half")
        raise RuntimeError
    assert not cache.has("a")
    assert list((cache.root / "activations").iterdir()) == []


def test_the_least_recently_used_goes_first(cache):
    for number, key in enumerate("abc"):
        add(cache, key, age=100 - number)
    cache.find("a")
    cache.release()
    add(cache, "d")
    assert [key for key in "abcd" if cache.has(key)] == ["a", "c", "d"]


def test_entries_in_use_are_spared(cache):
    for number, key in enumerate("abc"):
        add(cache, key, age=100 - number)
    path = cache.find("a")
    os.utime(path.with_name("entry.json"), (1, 1))
    add(cache, "d")
    assert path.exists()
    assert not cache.has("b")


def test_a_lease_of_a_dead_process_does_not_count(cache):
    for number, key in enumerate("abc"):
        add(cache, key, age=100 - number)
    lease(cache, "a", unused_pid(), int(time.time()))
    lease(cache, "b", os.getpid(), 1)  # the same number, another process long ago
    add(cache, "d", 6 * KB)
    assert [key for key in "abcd" if cache.has(key)] == ["c", "d"]


def test_too_small_a_limit_says_how_much_is_needed(cache):
    with pytest.raises(UserError, match=r"^cache_limit_gb: expected at least .* for these activations"):
        cache.make_room(11 * KB)
    add(cache, "a", 6 * KB)
    cache.find("a")
    with pytest.raises(UserError, match="the rest is in use"):
        cache.make_room(5 * KB)
    cache.release()
    cache.make_room(5 * KB)


def test_files_beside_the_entries_need_room_on_the_disk_but_not_in_the_limit(cache):
    cache.make_room(KB, beside=20 * KB)
    with pytest.raises(UserError, match=r"cache_dir: expected .* MB free"):
        cache.make_room(KB, beside=10**15)


def test_what_a_killed_process_left_is_removed(cache):
    left = cache.root / "activations" / "dead.partial"
    left.mkdir()
    (left / "activations.npy").write_bytes(b"x")
    with cache.creating("alive", {}) as target:
        target.write_bytes(b"x")
        cache.make_room(KB)
        assert target.exists()
    assert not left.exists()
    assert cache.has("alive")


def test_a_full_disk_is_a_mistake_of_the_users(cache):
    with pytest.raises(UserError, match="full"), cache.creating("a", {}):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), cache.creating("a", {}):
        raise PermissionError(errno.EACCES, "no")


def test_a_limit_must_be_positive(tmp_path):
    with pytest.raises(UserError, match="cache_limit_gb"):
        Cache(tmp_path, 0)


def test_the_directory_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MAMMO_CACHE_DIR", str(tmp_path / "there"))
    assert Cache().root == (tmp_path / "there").resolve()


MAKER = """
import sys, time
from pathlib import Path
from mammo_mlflow.jobs.cache import Cache
cache, mark = Cache(Path(sys.argv[1])), Path(sys.argv[2])
with cache.creating("a", {}) as target:
    if target is not None:
        with mark.open("a") as file:
            file.write("made\\n")
        time.sleep(1.5)
        target.write_bytes(b"whole")
assert cache.find("a").read_bytes() == b"whole"
"""


def test_two_processes_make_an_entry_once(system, tmp_path):
    mark = tmp_path / "mark"
    arguments = [sys.executable, "-c", MAKER, str(tmp_path / "cache"), str(mark)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    both = [subprocess.Popen(arguments, env=environment, cwd=tmp_path) for _ in range(2)]
    assert [one.wait(60) for one in both] == [0, 0]
    assert Path(mark).read_text() == "made\n"
