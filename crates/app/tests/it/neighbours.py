"""What a program in one cell does to what all cells share, and what its neighbour measures meanwhile.
usage: neighbours.py NAME [COUNT]; prints one JSON object. `measure` and whatever holds something go on until standard
input ends."""
import errno, http.client, json, os, resource, select, signal, socket, sys, time, urllib.parse


def api():
    url = urllib.parse.urlsplit(os.environ["ABBEY_URL"])
    return http.client.HTTPConnection(url.hostname, url.port, timeout=30)


def call(connection, method, path, body=None):
    with open(os.environ["ABBEY_TOKEN_FILE"]) as file:
        token = file.read().strip()
    connection.request(method, path, body, {"authorization": "Bearer " + token, "content-type": "application/json"})
    response = connection.getresponse()
    response.read()
    return response


def over(wait=0.0):
    """Whether standard input has ended, after this time at most."""
    return bool(select.select([sys.stdin], [], [], wait)[0]) and not sys.stdin.buffer.read1(1)


def measure():
    """Calls of the agent API, each on a connection of its own; the first is reported by a line."""
    calls, failed, worst = 0, [], 0.0
    while calls < 2 or not over(0.02):
        begun = time.monotonic()
        try:
            connection = api()
            status = call(connection, "GET", "/api/v1/self").status
            connection.close()
            if status != 200:
                failed.append(str(status))
        except OSError as e:
            failed.append(repr(e))
        worst = max(worst, time.monotonic() - begun)
        calls += 1
        if calls == 1:
            print("measuring", flush=True)
    return {"calls": calls, "failed": failed[:10], "worst_ms": round(worst * 1000)}


def connections(count):
    """Connections to the port that leads to the house, at the address of the gateway, each closed at once."""
    url = urllib.parse.urlsplit(os.environ["ABBEY_URL"])
    routes = [line.split() for line in open("/proc/net/route").read().splitlines()[1:]]
    gateway = next(int(r[2], 16) for r in routes if r[1] == "00000000")
    gateway = socket.inet_ntoa(gateway.to_bytes(4, sys.byteorder))
    made = 0
    for _ in range(count):
        try:
            socket.create_connection((gateway, url.port), 5).close()
            made += 1
        except OSError:
            pass
    return {"made": made}


def datagrams(count):
    """A datagram to each of many ports of an address outside."""
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for n in range(count):
            try:
                s.sendto(b"x", ("198.51.100.7", 1024 + n % 60000))
                sent += 1
            except OSError:
                pass
    return {"sent": sent}


def refusals(count):
    """Requests to the egress proxy for names that the cell may not reach."""
    connection = http.client.HTTPConnection("127.0.0.1", 3128, timeout=30)
    refused = 0
    for n in range(count):
        connection.request("CONNECT", f"host-{n}.example.net:443")
        response = connection.getresponse()
        response.read()
        refused += response.status == 403
    return {"refused": refused}


def notes(count):
    """Notes for the audit log, of 8 kB each."""
    connection, accepted, wait = api(), 0, None
    for _ in range(count):
        response = call(connection, "POST", "/api/v1/self/activity", json.dumps({"text": "x" * 8000}))
        accepted += response.status == 200
        if response.status == 429:
            wait = response.headers["retry-after"]
    return {"accepted": accepted, "retry_after": wait}


def unfinished(count):
    """Requests to the agent API that never end, held open."""
    url = urllib.parse.urlsplit(os.environ["ABBEY_URL"])
    held = []
    for _ in range(count):
        try:
            s = socket.create_connection((url.hostname, url.port), 1)
            s.sendall(b"POST /api/v1/self/activity HTTP/1.1\r\nhost: x\r\n")
            held.append(s)
        except OSError:
            break
    print(json.dumps({"held": len(held)}), flush=True)
    over(None)
    return {}


def bodies(count):
    """Requests to the agent API whose bodies never end, held open."""
    url = urllib.parse.urlsplit(os.environ["ABBEY_URL"])
    with open(os.environ["ABBEY_TOKEN_FILE"]) as file:
        token = file.read().strip().encode()
    head = b"POST /api/v1/self/activity HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + token + b"\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"
    held = []

    def hold():
        try:
            s = socket.create_connection((url.hostname, url.port), 1)
            s.sendall(head)
            held.append(s)
            return True
        except OSError:
            return False

    while len(held) < count and hold():
        pass
    print(json.dumps({"held": len(held)}), flush=True)
    first = held[0]
    first.settimeout(30)
    print(json.dumps({"status": first.recv(12).decode()}), flush=True)
    over(None)
    return {}


def files(count):
    """Open files, as many as the cell may have in each of many processes."""
    children, opened = [], 0
    for _ in range(count):
        reader, writer = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            break
        if pid == 0:
            held = []
            try:
                while True:
                    held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                os.write(writer, str(len(held)).encode())
            time.sleep(600)
        opened += int(os.read(reader, 20))
        children.append(pid)
    print(json.dumps({"opened": opened}), flush=True)
    over(None)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    return {}


def output(count):
    """Lines of output."""
    for _ in range(count):
        os.write(2, b"x" * 1000 + b"\n")
    return {"lines": count}


def spin(count):
    for _ in range(count):
        if os.fork() == 0:
            while True:
                pass
    print("{}", flush=True)
    over(None)
    os.killpg(0, signal.SIGKILL)


def memory(count):
    """Memory, by children that are killed and replaced."""
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            held = []
            while True:
                held.append(bytearray(1 << 20))
        os.waitpid(pid, 0)
    return {"killed": count}


def processes(count):
    """Processes until none is to be had, again and again."""
    refused = 0
    for _ in range(count):
        children = []
        try:
            while True:
                pid = os.fork()
                if pid == 0:
                    time.sleep(600)
                children.append(pid)
        except OSError:
            refused += 1
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return {"refused": refused}


def fill(count):
    """All space of the cell's disk, then all of its names."""
    ended = []
    for _ in range(count):
        try:
            with open("fill", "wb") as file:
                while True:
                    file.write(b"x" * (1 << 20))
                    file.flush()
        except OSError as e:
            ended.append(errno.errorcode[e.errno])
        os.unlink("fill")
        made = 0
        try:
            os.mkdir("names")
            while made < 200_000:
                open(f"names/{made}", "w").close()
                made += 1
        except OSError as e:
            ended.append(errno.errorcode[e.errno])
        for n in range(made):
            os.unlink(f"names/{n}")
        os.rmdir("names")
    return {"ended": ended}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    print(json.dumps(globals()[sys.argv[1]](*map(int, sys.argv[2:]))), flush=True)
