"""Servers of the tests' own: PostgreSQL, MLflow's tracking server, an object store, and some that do not answer."""

import http.server
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
import uuid
from pathlib import Path

import psutil
import pytest
from support import environment, free_port, wait_for

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


class PostgreSQL:
    """A PostgreSQL server on a free port; with `network`, as 10.0.0.0/8, on all addresses and for all who are in it."""

    def __init__(self, network=None):
        self.programs, self.port = PROGRAMS[-1], free_port()
        # not under pytest's own directory, into which no other user may look, and whose paths are long for a socket
        self.folder = Path(tempfile.mkdtemp(prefix="mammo-pg-"))
        self.data, self.user = self.folder / "data", {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            owner = pwd.getpwnam("postgres" if _exists("postgres") else "nobody")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            self.user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        self._call("initdb", "-D", self.data, "-U", "mammo", "-A", "trust", "-E", "UTF8", "--no-sync")
        if network:
            with (self.data / "pg_hba.conf").open("a") as file:
                file.write(f"host all all {network} trust\n")
        self.settings = f"-c fsync=off -c listen_addresses={'*' if network else '127.0.0.1'}"
        self.settings += f" -c unix_socket_directories={self.folder} -p {self.port}"

    def start(self):
        self._call("pg_ctl", "-D", self.data, "-l", self.folder / "log", "-w", "-o", self.settings, "start")

    def make(self, host="127.0.0.1"):
        """The URL of a new empty database."""
        name = f"mammo_{uuid.uuid4().hex[:8]}"
        self._call("createdb", "-h", self.folder, "-p", str(self.port), "-U", "mammo", name)
        return f"postgresql://mammo@{host}:{self.port}/{name}"

    def stop(self):
        if (self.data / "postmaster.pid").exists():
            self._call("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")

    def remove(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _call(self, program, *arguments):
        line = [self.programs / program, *arguments]
        subprocess.run(line, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, **self.user)


def _exists(name):
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False


class TrackingServer:
    """A real tracking server that can be stopped and started again; `more` are options of `mlflow server`."""

    def __init__(self, where, *more, backend=None, artifacts=None, host="127.0.0.1", **surroundings):
        self.port = free_port()
        self.where, self.uri = where, f"http://{host}:{self.port}"
        self.line = ["mlflow", "server", "--host", host, "--port", str(self.port), "--workers", "1"]
        self.line += ["--backend-store-uri", backend or f"sqlite:///{where}/mlflow.db"]
        self.line += ["--artifacts-destination", artifacts or str(where / "artifacts"), *more]
        self.surroundings = surroundings
        self.family = []

    def start(self):
        with (self.where / "server-log").open("a") as log:
            process = subprocess.Popen(
                self.line,
                cwd=self.where,
                env=environment(self.where, **self.surroundings),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while not self._answers():
            assert process.poll() is None, (self.where / "server-log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        one = psutil.Process(process.pid)
        self.family = [one, *one.children(recursive=True)]

    def stop(self):
        for one in self.family:
            if one.is_running():
                one.kill()
        psutil.wait_procs(self.family, timeout=10)
        self.family = []

    def _answers(self):
        try:
            return urllib.request.urlopen(f"{self.uri}/health", timeout=2).status == 200
        except OSError:
            return False


class Silent:
    """A server on a free port that accepts and never answers."""

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=50)
        return f"127.0.0.1:{self.socket.getsockname()[1]}"

    def __exit__(self, *problem):
        self.socket.close()


class Answering:
    """A web server on a free port that answers everything in one way."""

    def __init__(self, status, body=b"", kind="text/html"):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *arguments):
                pass

        self.handler = Handler

    def __enter__(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"127.0.0.1:{self.server.server_port}"

    def __exit__(self, *problem):
        self.server.shutdown()
        self.server.server_close()


class Host:
    """A "host" in namespaces: its own name, network, processes and folder of temporary files. Needs root and `ip`.

    Who kills the first process of a line kills all that it started, as when a host dies.

    `number` is the last part of its address; the first host's network has this machine at `GATEWAY`.
    """

    NETWORK, GATEWAY = "10.213.77.0/24", "10.213.77.1"
    BRIDGE = "mammobr0"

    def __init__(self, number):
        self.name, self.link = f"mammo-host-{number}", f"mammov{number}"
        self.number = number

    def __enter__(self):
        self.tmp = Path(tempfile.mkdtemp(prefix="host-"))  # sockets lie there, whose paths have to be short
        if subprocess.run(["ip", "link", "show", self.BRIDGE], check=False, **QUIET).returncode:
            _ip("link", "add", self.BRIDGE, "type", "bridge")
            _ip("addr", "add", f"{self.GATEWAY}/24", "dev", self.BRIDGE)
            _ip("link", "set", self.BRIDGE, "up")
        _ip("netns", "add", self.name)
        _ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("link", "set", self.link, "master", self.BRIDGE, "up")
        _ip("-n", self.name, "addr", "add", f"10.213.77.{10 + self.number}/24", "dev", "eth0")
        _ip("-n", self.name, "link", "set", "eth0", "up")
        _ip("-n", self.name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *problem):
        subprocess.run(["ip", "netns", "del", self.name], check=False, **QUIET)
        subprocess.run(["ip", "link", "del", self.link], check=False, **QUIET)
        shutil.rmtree(self.tmp, ignore_errors=True)

    def line(self, *words):
        """The command line that runs another one on this host."""
        named = f'hostname {self.name} && exec "$@"'
        apart = ["unshare", "--uts", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
        return ["ip", "netns", "exec", self.name, *apart, "sh", "-c", named, "sh", *map(str, words)]

    @property
    def surroundings(self):
        """What the environment of its processes has beside the machine's."""
        return {"TMPDIR": str(self.tmp)}

    @classmethod
    def clear(cls):
        """Remove the network of all hosts."""
        subprocess.run(["ip", "link", "del", cls.BRIDGE], check=False, **QUIET)


def _ip(*words):
    subprocess.run(["ip", *words], check=True, stdout=subprocess.DEVNULL)


def need_hosts():
    """Skip where hosts cannot be made."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("needs root, ip (iproute2) and unshare for hosts of its own")
    if subprocess.run(["ip", "netns", "add", "mammo-tried"], check=False, **QUIET).returncode:
        pytest.skip("network namespaces cannot be made here")
    subprocess.run(["ip", "netns", "del", "mammo-tried"], check=False, **QUIET)


def need_postgresql():
    """Skip without PostgreSQL's programs and a driver."""
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'mammo-mlflow[postgresql]'")
    if not PROGRAMS or not (PROGRAMS[-1] / "initdb").exists():
        pytest.skip("no PostgreSQL: apt-get install postgresql (the tests start a server of their own)")


class ObjectStore:
    """moto's S3 in a process of its own, out of an environment of its own, which `MAMMO_TEST_MOTO` names."""

    def __init__(self, where):
        self.port, self.where = free_port(), where
        self.uri = f"http://127.0.0.1:{self.port}"
        self.surroundings = {
            "MLFLOW_S3_ENDPOINT_URL": self.uri,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "of-the-tests",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def __enter__(self):
        line = [os.environ["MAMMO_TEST_MOTO"], "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(line, cwd=self.where, env={**os.environ, "PYTHONPATH": ""}, **QUIET)
        wait_for(self._answers)
        return self

    def __exit__(self, *problem):
        self.process.kill()
        self.process.wait(30)

    def make_bucket(self, name):
        request = urllib.request.Request(f"{self.uri}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        return f"s3://{name}"

    def _answers(self):
        try:
            with urllib.request.urlopen(f"{self.uri}/moto-api/", timeout=2):
                return True
        except OSError:
            return False
