"""A PostgreSQL server of the tests' own, where its programs are installed."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


@pytest.fixture(scope="session")
def postgresql(system):
    """Makes an empty database on a server on a free port and gives its URL, as often as it is called."""
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'mammo-mlflow[postgresql]'")
    if not PROGRAMS or not (PROGRAMS[-1] / "initdb").exists():
        pytest.skip("no PostgreSQL: apt-get install postgresql (the tests start a server of their own)")
    programs = PROGRAMS[-1]
    # not under pytest's own directory, into which no other user may look, and whose paths are long for a socket
    folder = Path(tempfile.mkdtemp(prefix="mammo-pg-"))
    data = folder / "data"
    user = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        owner = pwd.getpwnam("postgres" if _exists("postgres") else "nobody")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(program, *arguments):
        subprocess.run([programs / program, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL, **user)

    settings = f"-c fsync=off -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -p {port}"
    try:
        call("initdb", "-D", data, "-U", "mammo", "-A", "trust", "-E", "UTF8", "--no-sync")
        call("pg_ctl", "-D", data, "-l", folder / "log", "-w", "-o", settings, "start")

        def make():
            name = f"studies_{uuid.uuid4().hex[:8]}"
            call("createdb", "-h", folder, "-p", str(port), "-U", "mammo", name)
            return f"postgresql://mammo@127.0.0.1:{port}/{name}"

        yield make
    finally:
        if (data / "postmaster.pid").exists():
            call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def _exists(name):
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False
