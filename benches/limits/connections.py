"""Ten thousand connections that are idle, and a thousand that are not."""

import resource
import selectors
import socket
import time

from bench import median, table

IDLE, ACTIVE = 10_000, 1_000
SECONDS = 10


def measure(tools):
    """Memory per idle connection, then requests on a thousand others beside them: how evenly they are served."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * (IDLE + ACTIVE))), hard))
    rows, shown = [], []
    for protocol in ("http", "grpc"):
        # Idle connections are closed after `limits.header_timeout`, which opening so many may exceed.
        with tools.serving("mlp", flags=["--config", str(patient(tools))]) as server:
            before = server.resident_bytes()
            idle = [opened(server, protocol) for _ in range(IDLE)]
            time.sleep(1)
            per_idle = (server.resident_bytes() - before) / IDLE
            row = {"protocol": protocol, "bytes_per_idle_connection": per_idle}
            if protocol == "http":
                counts, waits, failed, resident = drive(server, tools)
                row |= {"per_connection": [min(counts), median(counts), max(counts)], "failed": failed}
                row |= {"worst_wait_ms": [median(waits), max(waits)]}
                beside = (resident - before - per_idle * IDLE) / ACTIVE
                row["bytes_per_active_connection"] = beside
                shown.append(
                    [
                        protocol,
                        f"{per_idle / 1000:.1f}",
                        f"{beside / 1000:.1f}",
                        f"{min(counts)} / {median(counts):.0f} / {max(counts)}",
                        f"{median(waits):.0f} / {max(waits):.0f}",
                        failed,
                    ]
                )
            else:
                shown.append([protocol, f"{per_idle / 1000:.1f}", "", "", "", ""])
            rows.append(row)
            row["idle_still_open"] = sum(is_open(connection) for connection in idle)
            shown[-1].append(row["idle_still_open"])
            for connection in idle:
                connection.close()
    head = ["protocol", "KB per idle connection", "KB per active one", f"answers per connection in {SECONDS} s: least / median / most"]
    table(head + ["longest wait of a connection, ms: median / worst", "failed", "idle ones still open"], shown)
    return rows


def patient(tools):
    """A configuration in which connections may be idle for long."""
    path = tools.scratch / "patient.toml"
    path.write_text('[limits]\nheader_timeout = "10m"\n')
    return path


def opened(server, protocol):
    """A connection that said hello and is silent now."""
    host, port = (server.grpc if protocol == "grpc" else server.http).rsplit(":", 1)
    connection = socket.create_connection((host, int(port)))
    if protocol == "grpc":
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        connection.recv(9)
    else:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: t\r\n\r\n")
        while b"\r\n\r\n" not in connection.recv(4096):
            pass
    return connection


def is_open(connection):
    """Whether the server has not closed it."""
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def drive(server, tools):
    """Keeps one request in flight on each of a thousand connections: answers and the longest wait of each.

    The driver is one thread of Python, whose own turn round the thousand is part of every wait.
    """
    body = (tools.models / "requests" / "mlp.json").read_bytes()
    head = f"POST /v2/models/mlp/infer HTTP/1.1\r\nhost: t\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    message = head + body
    poll = selectors.DefaultSelector()
    host, port = server.http.rsplit(":", 1)
    clients = []
    for _ in range(ACTIVE):
        connection = socket.create_connection((host, int(port)))
        client = {"socket": connection, "answers": 0, "wait": 0.0, "sent": 0.0, "buffer": b""}
        poll.register(connection, selectors.EVENT_READ, client)
        clients.append(client)
    failed, until = 0, time.monotonic() + SECONDS
    for client in clients:
        client["sent"] = time.monotonic()
        client["socket"].sendall(message)
    while time.monotonic() < until:
        for key, _ in poll.select(timeout=1):
            client = key.data
            piece = client["socket"].recv(65536)
            if not piece:
                failed += 1
                poll.unregister(client["socket"])
                continue
            client["buffer"] += piece
            if not whole(client["buffer"]):
                continue
            failed += not client["buffer"].startswith(b"HTTP/1.1 200")
            now = time.monotonic()
            client["answers"] += 1
            client["wait"] = max(client["wait"], 1000 * (now - client["sent"]))
            client["buffer"], client["sent"] = b"", now
            client["socket"].sendall(message)
    resident = server.resident_bytes()
    for client in clients:
        # One that still waits has waited at least this long.
        client["wait"] = max(client["wait"], 1000 * (time.monotonic() - client["sent"]))
        client["socket"].close()
    return [client["answers"] for client in clients], [client["wait"] for client in clients], failed, resident


def whole(buffer):
    """Whether an HTTP answer with a Content-Length is complete."""
    head, found, body = buffer.partition(b"\r\n\r\n")
    if not found:
        return False
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return len(body) >= int(lengths[0])
