"""A server under test: its processes, their CPU time and memory."""

import atexit
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    """A TCP port of the loopback interface that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A started program and all processes below it or in its session."""

    def __init__(self, command, environment, folder, log):
        self.log = Path(log)
        # Short, for paths of sockets may have 107 bytes. What servers leave there is removed when they are stopped.
        self.temporary = tempfile.mkdtemp(prefix="peers-")
        environment = {**environment, "TMPDIR": self.temporary, "XDG_CACHE_HOME": self.temporary}
        self.started = time.monotonic()
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

        # Also when the driver is ended between the start and the first measurement.
        atexit.register(self.stop)

    def age(self):
        """Seconds since it was started."""
        return time.monotonic() - self.started

    def is_alive(self):
        return self.process.poll() is None

    def processes(self):
        """Its living processes: id and kernel start time, which together name one for good, to CPU ticks."""
        root, rows = self.process.pid, list(all_processes())
        mine = {root} | {row["id"] for row in rows if row["session"] == root}
        size = 0
        while size != len(mine):
            size = len(mine)
            mine |= {row["id"] for row in rows if row["parent"] in mine}
        return {(row["id"], row["started"]): row["ticks"] for row in rows if row["id"] in mine}

    def cpu_seconds(self):
        """User and system time of all its processes so far, ended children included."""
        return sum(self.processes().values()) / TICKS

    def memory_bytes(self):
        """Proportional set size of all its processes: shared pages count once, over those that share them."""
        return sum(proportional_set(process) for process, _ in self.processes())

    def stop(self):
        """Ends it politely, then whatever is left of it."""
        mine = set(self.processes())
        signal_each([self.process.pid], signal.SIGTERM)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            mine |= set(self.processes())
        # What it started may still be tidying up, its shared memory for one.
        until = time.monotonic() + 5
        while time.monotonic() < until and left(mine):
            time.sleep(0.05)
        signal_each(left(mine), signal.SIGKILL)
        self.process.wait()
        forget_memory({process for process, _ in mine})
        shutil.rmtree(self.temporary, ignore_errors=True)
        atexit.unregister(self.stop)

    def last_words(self, lines=15):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def all_processes():
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text()
        except OSError:  # It ended meanwhile.
            continue
        # The name, in parentheses, may hold anything; fields count from after it: state, parent, group, session.
        fields = text[text.rindex(")") + 2 :].split()
        if fields[0] == "Z":
            continue
        yield {
            "id": int(entry.name),
            "parent": int(fields[1]),
            "session": int(fields[3]),
            "started": int(fields[19]),
            "ticks": sum(map(int, fields[11:15])),
        }


def forget_memory(processes):
    """Removes the shared memory that ended processes left behind, where its name tells whose it is: `word123-…`."""
    for segment in Path("/dev/shm").glob("*"):
        owner = re.match(r"[a-z]+(\d+)-", segment.name)
        if owner and int(owner[1]) in processes:
            segment.unlink(missing_ok=True)


def left(processes):
    """The ids of those that live on; a number that the kernel has given away again is not among them."""
    return [row["id"] for row in all_processes() if (row["id"], row["started"]) in processes]


def proportional_set(process):
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:  # It ended meanwhile.
        pass
    return 0


def signal_each(processes, what):
    for process in processes:
        try:
            os.kill(process, what)
        except ProcessLookupError:
            pass
