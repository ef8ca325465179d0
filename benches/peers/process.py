"""A server under test: its processes, their CPU time and memory."""

import os
import signal
import socket
import subprocess
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
        self.started = time.monotonic()
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(command, env={**os.environ, **environment}, cwd=folder, stdout=output,
                                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)

    def age(self):
        """Seconds since it was started."""
        return time.monotonic() - self.started

    def is_alive(self):
        return self.process.poll() is None

    def processes(self):
        """The ids of its living processes."""
        root, rows = self.process.pid, list(all_processes())
        mine = {root} | {row["id"] for row in rows if row["session"] == root}
        size = 0
        while size != len(mine):
            size = len(mine)
            mine |= {row["id"] for row in rows if row["parent"] in mine}
        return mine & {row["id"] for row in rows}

    def cpu_seconds(self):
        """User and system time of all its processes so far, ended children included."""
        mine = self.processes()
        return sum(row["ticks"] for row in all_processes() if row["id"] in mine) / TICKS

    def memory_bytes(self):
        """Proportional set size of all its processes: shared pages count once, over those that share them."""
        return sum(proportional_set(process) for process in self.processes())

    def stop(self):
        """Ends it politely, then whatever is left of it."""
        mine = self.processes()
        signal_each([self.process.pid], signal.SIGTERM)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            pass
        mine |= self.processes()
        signal_each(mine - {self.process.pid} if not self.is_alive() else mine, signal.SIGKILL)
        self.process.wait()

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
        fields = text[text.rindex(")") + 2:].split()
        if fields[0] == "Z":
            continue
        yield {"id": int(entry.name), "parent": int(fields[1]), "session": int(fields[3]),
               "ticks": sum(map(int, fields[11:15]))}


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
