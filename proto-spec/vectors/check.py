#!/usr/bin/env python3
"""Check the recordings in this folder against the documents one level up.

This is an implementation of protocol 0.5 and patch format 0.3 written from the
documents alone, with nothing but the standard library. It shares no code with
the programs of this project, so that an error in one is not hidden by the same
error in the other.

Usage: check.py [-v] [NAME...]     NAME is a folder, such as sync/tiny
Exit status: 0 when every recording agrees, 1 otherwise.
"""

import collections
import hashlib
import json
import pathlib
import re
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent

HELLO, DEVFILE, SIZE, DIGESTS, GETHASHES, HASHES = 1, 2, 3, 4, 5, 6
DONE, GETBLOCK, BLOCK, GETCHECKSUM, CHECKSUM = 7, 8, 9, 10, 11

MAX_MESSAGE = 131072
MAX_HELLO = 1024
MAX_DEVFILE = 16384
MAX_SALT = 127
MAX_STEP = 1 << 36
MAX_BLOCK = 131063
MAX_NAME = 16384
I64_MAX = (1 << 63) - 1
PIECE = 32768
MAGIC = b"BDSYNC 0.3\n"

# Recordings where stock did something that deviations.md replaces: the exit
# code this project gives instead.
SERVER_DEVIATIONS = {"zero-length-message": 4}
PATCH_DEVIATIONS = {"negative-position": 2}
APPLY_DEVIATIONS = {"shrink-to-empty": 0}
# Recordings in which stock had changed the target before it found the fault.
HALF_APPLIED = {"checksum-cut", "checksum-name-128", "no-checksum-byte", "no-end-marker"}

counts = collections.Counter()
verbose = False


class Disagreement(Exception):
    """A recording does not say what the documents say."""


class Fault(Exception):
    """Input that the documents refuse, with the exit code they give for it."""

    def __init__(self, code, why):
        super().__init__(f"exit {code}: {why}")
        self.code = code


class BrokenFrame(Fault):
    """A message that is cut off or too long to be read."""


def agree(condition, why):
    if not condition:
        raise Disagreement(why)


# Images (README.md section 3)


def splitmix64(seed, length):
    mask = (1 << 64) - 1
    out = bytearray()
    while len(out) < length:
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out += struct.pack("<Q", z ^ (z >> 31))
    return bytes(out[:length])


image_cache = {}


def image(recipe):
    key = json.dumps(recipe, sort_keys=True)
    if key not in image_cache:
        data = bytearray(recipe["size"])
        for op in recipe["ops"]:
            if op["kind"] == "random":
                piece = splitmix64(op["seed"], op["len"])
            else:
                agree(op["kind"] == "fill", f"unknown operation {op['kind']}")
                piece = bytes([op["byte"]]) * op["len"]
            agree(op["at"] + len(piece) <= len(data), "an operation runs past the image")
            data[op["at"] : op["at"] + len(piece)] = piece
        image_cache[key] = bytes(data)
    return image_cache[key]


def sha256_hex(data):
    return hashlib.sha256(data).hexdigest()


def padded(data, start, length):
    """Bytes [start, start + length), with zeros behind the end."""
    part = data[start : start + length]
    return part + bytes(length - len(part))


# Digests (protocol.md section 6)

DIGEST_NAMES = {
    "md5": ("md5", 16, "ssl3-md5 rsa-md5 md5withrsaencryption"),
    "sha1": ("sha1", 20, "sha-1 ssl3-sha1 rsa-sha1 rsa-sha1-2 sha1withrsaencryption"),
    "sha224": ("sha224", 28, "sha-224 sha2-224 rsa-sha224 sha224withrsaencryption"),
    "sha256": ("sha256", 32, "sha-256 sha2-256 rsa-sha256 sha256withrsaencryption"),
    "sha384": ("sha384", 48, "sha-384 sha2-384 rsa-sha384 sha384withrsaencryption"),
    "sha512": ("sha512", 64, "sha-512 sha2-512 rsa-sha512 sha512withrsaencryption"),
    "sha512-224": ("sha512_224", 28, "sha-512/224 sha2-512/224 rsa-sha512/224 sha512-224withrsaencryption"),
    "sha512-256": ("sha512_256", 32, "sha-512/256 sha2-512/256 rsa-sha512/256 sha512-256withrsaencryption"),
    "sha3-224": ("sha3_224", 28, "rsa-sha3-224 id-rsassa-pkcs1-v1_5-with-sha3-224"),
    "sha3-256": ("sha3_256", 32, "rsa-sha3-256 id-rsassa-pkcs1-v1_5-with-sha3-256"),
    "sha3-384": ("sha3_384", 48, "rsa-sha3-384 id-rsassa-pkcs1-v1_5-with-sha3-384"),
    "sha3-512": ("sha3_512", 64, "rsa-sha3-512 id-rsassa-pkcs1-v1_5-with-sha3-512"),
    "shake128": ("shake_128", 16, "shake-128"),
    "shake256": ("shake_256", 32, "shake-256"),
    "blake2b512": ("blake2b", 64, "blake2b-512"),
    "blake2s256": ("blake2s", 32, "blake2s-256"),
    "ripemd160": ("ripemd160", 20, "ripemd ripemd-160 rmd160 rsa-ripemd160 ripemd160withrsa"),
    "sm3": ("sm3", 32, "rsa-sm3 sm3withrsaencryption"),
    "md5-sha1": ("md5-sha1", 36, ""),
}
DIGESTS_BY_NAME = {
    name: (library, size)
    for canonical, (library, size, aliases) in DIGEST_NAMES.items()
    for name in [canonical, *aliases.split()]
}


class Digest:
    """A digest by its wire name. Without a local implementation only its size is known."""

    def __init__(self, name, code):
        found = DIGESTS_BY_NAME.get(name.decode("latin-1").lower())
        if found is None:
            raise Fault(code, f"unknown digest {name!r}")
        self.library, self.size = found
        try:
            hashlib.new(self.library)
            self.known = True
        except ValueError:
            self.known = self.library == "md5-sha1"

    def of(self, *parts):
        if not self.known:
            return None
        if self.library == "md5-sha1":
            return b"".join(hashlib.new(n, b"".join(parts)).digest() for n in ("md5", "sha1"))
        state = hashlib.new(self.library)
        for part in parts:
            state.update(part)
        if self.library.startswith("shake"):
            return state.digest(self.size)
        return state.digest()


# Frames and messages (protocol.md sections 2 and 3)


def frame(kind, payload=b""):
    return struct.pack("<IB", len(payload) + 1, kind) + payload


def frames(data):
    """The messages of a stream. What is wrong with the framing comes as a Fault."""
    offset = 0
    while True:
        if offset == len(data):
            raise Fault(6, "end of input")
        if len(data) - offset < 4:
            raise BrokenFrame(6, "end of input inside a length")
        (length,) = struct.unpack_from("<I", data, offset)
        if length == 0:
            raise Fault(4, "message without a type")
        if length > MAX_MESSAGE:
            raise BrokenFrame(6, f"message of {length} bytes")
        if len(data) - offset - 4 < length:
            raise BrokenFrame(6, "end of input inside a message")
        yield data[offset + 4], data[offset + 5 : offset + 4 + length]
        offset += 4 + length


def whole(data):
    """The messages of a stream that ends after a whole message."""
    out, consumed = [], 0
    while consumed < len(data):
        kind, payload = next(frames(data[consumed:]))
        out.append((kind, payload))
        consumed += 5 + len(payload)
    agree(b"".join(frame(k, p) for k, p in out) == data, "messages written again differ")
    return out


def integers(payload, count, exact=True):
    size = 8 * count
    if len(payload) < size or (exact and len(payload) != size):
        raise Fault(4, f"payload of {len(payload)} bytes where {size} belong")
    return struct.unpack_from(f"<{count}q", payload)


def check_hello(payload):
    if len(payload) > MAX_HELLO:
        raise Fault(4, "hello too long")
    word, space, version = payload.partition(b" ")
    if not space or version != b"0.5":
        raise Fault(4, f"hello {payload!r}")
    return word


def parse_digests(payload):
    if not payload or payload[0] > MAX_SALT or len(payload) < 1 + payload[0]:
        raise Fault(4, "bad salt")
    salt, rest = payload[1 : 1 + payload[0]], payload[1 + payload[0] :]
    fields = rest.split(b"\0")
    if len(fields) != 3 or fields[2]:
        raise Fault(4, "digests needs two names, each with its terminator")
    if max(len(fields[0]), len(fields[1])) > 127:
        raise Fault(4, "name of a digest too long")
    return salt, fields[0], fields[1]


# The server (protocol.md section 4)


class Server:
    def __init__(self, devices):
        self.devices = devices
        self.out = bytearray(frame(HELLO, b"SERVER 0.5"))
        self.device = None
        self.salt, self.hash = b"", None
        self.checksum, self.covered, self.checked = None, 0, []
        self.unknown = []  # ranges of the output that could not be computed here
        self.broken = False

    def run(self, stream):
        """Feeds a whole stream, then end of input; gives the exit code."""
        try:
            messages = frames(stream)
            self.first(messages)
            while True:
                kind, payload = next(messages)
                if self.answer(kind, payload):
                    return 0
        except Fault as fault:
            self.broken = isinstance(fault, BrokenFrame)
            return fault.code

    def first(self, messages):
        kind, payload = next(messages)
        if kind != HELLO:
            raise Fault(4, "first message is no hello")
        check_hello(payload)
        kind, payload = next(messages)
        if kind != DEVFILE:
            raise Fault(4, "second message is no devfile")
        if not 2 <= len(payload) <= MAX_DEVFILE or b"\0" in payload:
            raise Fault(4, "bad device name")
        self.device = self.devices.get(payload)
        if self.device is None:
            raise Fault(12, f"no device {payload!r}")
        self.send(SIZE, struct.pack("<q", len(self.device)))

    def send(self, kind, payload, unknown=0):
        self.out += frame(kind, payload)
        if unknown:
            self.unknown.append((len(self.out) - unknown, len(self.out)))

    def answer(self, kind, payload):
        if kind == DIGESTS:
            self.digests(payload)
        elif kind == GETHASHES:
            self.hashes(payload)
        elif kind == GETBLOCK:
            self.block(payload)
        elif kind == GETCHECKSUM:
            self.get_checksum(payload)
        elif kind == DONE:
            integers(payload, 0)
            self.send(DONE, b"")
            return True
        else:
            raise Fault(4, f"message {kind} is not for a server")
        return False

    def digests(self, payload):
        self.salt, name, checksum = parse_digests(payload)
        self.hash = Digest(name, 10)
        self.checksum = Digest(checksum, 5) if checksum else None
        self.covered, self.checked = 0, []

    def hashes(self, payload):
        start, step, count = integers(payload, 3)
        if start < 0:
            raise Fault(4, "negative start")
        if count == 0:
            return self.send(HASHES, payload)
        if self.hash is None:
            raise Fault(4, "gethashes before digests")
        size = self.hash.size
        if not 1 <= step <= MAX_STEP or not 1 <= count <= (MAX_MESSAGE - 25) // size:
            raise Fault(4, f"gethashes({start}, {step}, {count})")
        if start + step * count > I64_MAX:
            raise Fault(4, "gethashes runs past the largest position")
        self.cover(start, start + step * count)
        if not self.hash.known:
            counts["digests without an implementation here"] += count
            return self.send(HASHES, payload + bytes(size * count), size * count)
        blocks = (padded(self.device, start + i * step, step) for i in range(count))
        counts["digests computed"] += count
        self.send(HASHES, payload + b"".join(self.hash.of(self.salt, b) for b in blocks))

    def cover(self, start, end):
        """The checksum takes each byte from 0 on once, in ascending order."""
        if self.checksum is None or end <= self.covered:
            return
        if start > self.covered and start > len(self.device):
            raise Fault(5, "checksum over a gap behind the end")
        self.checked.append(padded(self.device, self.covered, end - self.covered))
        self.covered = end

    def block(self, payload):
        position, length = integers(payload, 2)
        if position < 0 or not 0 <= length <= MAX_BLOCK:
            raise Fault(4, f"getblock({position}, {length})")
        if position + length > len(self.device):
            raise Fault(11, "getblock past the end")
        self.send(BLOCK, payload[:8] + self.device[position : position + length])

    def get_checksum(self, payload):
        integers(payload, 0)
        if self.checksum is None:
            return self.send(CHECKSUM, b"")
        counts["checksums computed"] += 1
        value = self.checksum.of(*self.checked)
        unknown = 0 if value is not None else self.checksum.size
        self.send(CHECKSUM, value if value is not None else bytes(unknown), unknown)
        self.checksum = None
        return None

    def compare(self, recorded):
        computed = bytearray(self.out)
        if self.broken:  # stock may drop answers it has not sent yet (protocol.md section 4.4)
            whole(recorded)
            computed = computed[: len(recorded)]
        agree(len(computed) == len(recorded), f"answers of {len(computed)} bytes, {len(recorded)} recorded")
        for start, end in self.unknown:
            computed[start:end] = recorded[start:end]
        for offset, (mine, theirs) in enumerate(zip(computed, recorded)):
            agree(mine == theirs, f"answers differ at byte {offset}")


# Patches (patch.md)

Record = collections.namedtuple("Record", "position data")
Patch = collections.namedtuple("Patch", "size name records checksum rest")


class PatchReader:
    """Reads a patch piece by piece: header(), then records(), then checksum is set."""

    def __init__(self, data):
        self.data, self.offset = data, 0
        self.checksum = None

    def take(self, length):
        if len(self.data) - self.offset < length:
            raise Fault(2, "patch is cut off")
        self.offset += length
        return self.data[self.offset - length : self.offset]

    def header(self):
        if self.take(len(MAGIC)) != MAGIC:
            raise Fault(2, "bad magic or version")
        self.size, length = struct.unpack("<qH", self.take(10))
        if self.size < 0:
            raise Fault(2, "negative size")
        if length > MAX_NAME:
            raise Fault(2, "device name too long")
        self.name = self.take(length)

    def records(self):
        while True:
            position, length = struct.unpack("<qH", self.take(10))
            if position == 0 and length == 0:
                break
            if position < 0 or position + length > self.size:
                raise Fault(2, f"record at {position} of {length} bytes")
            yield Record(position, self.take(length))
        name = self.take(self.short())
        if name:
            self.checksum = (name, self.take(self.short()))

    def short(self):
        (length,) = self.take(1)
        if length > 127:
            raise Fault(2, "checksum name or digest too long")
        return length


def parse_patch(data):
    reader = PatchReader(data)
    reader.header()
    records = list(reader.records())
    return Patch(reader.size, reader.name, records, reader.checksum, data[reader.offset :])


def write_patch(patch):
    out = bytearray(MAGIC + struct.pack("<qH", patch.size, len(patch.name)) + patch.name)
    for record in patch.records:
        out += struct.pack("<qH", record.position, len(record.data)) + record.data
    out += struct.pack("<qH", 0, 0)
    if patch.checksum is None:
        out += b"\0"
    else:
        for field in patch.checksum:
            out += bytes([len(field)]) + field
    return bytes(out)


def diffsize(args):
    """The mode and whether a difference is reported."""
    for arg in args:
        if arg.startswith("--diffsize"):
            words = arg.partition("=")[2].split(",")
            mode = next((w for w in words if w in ("strict", "minsize", "resize")), "resize")
            return mode, "warn" in words or mode == "strict"
    return "strict", True


def put(target, record):
    """Writes what of a record lies inside the target."""
    room = max(0, len(target) - record.position)
    data = record.data[:room]
    target[record.position : record.position + len(data)] = data


def apply_patch(data, devices, device, args, check_first=True):
    """Exit code, resulting images and lines on stderr, as patch.md section 6 has it."""
    devices = {name: bytearray(content) for name, content in devices.items()}
    lines = []
    try:
        reader = PatchReader(data)
        reader.header()
        if check_first:
            parse_patch(data)
        name = device.encode() if device is not None else reader.name
        if "--warndev" in args and name != reader.name:
            lines.append(f"Warning: different device names parameter={name.decode()} data={reader.name.decode()}")
        if b"\0" in name:
            raise Fault(2, "zero byte in the name of the device")
        if name not in devices:
            raise Fault(12, f"no device {name!r}")
        target = devices[name]
        mode, warn = diffsize(args)
        if len(target) != reader.size:
            if warn:
                lines.append(f"Different sizes current={len(target)} patch={reader.size}")
            if mode == "strict":
                raise Fault(3, "sizes differ")
            if mode == "resize":
                target[reader.size :] = bytes(max(0, reader.size - len(target)))
        for record in reader.records():
            put(target, record)
        if reader.checksum is not None:
            lines.append(f"checksum[{reader.checksum[0].decode()}]: {reader.checksum[1].hex()}")
        return 0, devices, lines
    except Fault as fault:
        return fault.code, devices, lines


# The client (protocol.md section 5)


class Client:
    """What a run of a client must have asked and written, from its options and both images."""

    def __init__(self, case, source, target):
        args = dict(a.lstrip("-").partition("=")[::2] for a in case["args"])
        self.block = int(args.get("blocksize", 4096))
        self.twopass = "twopass" in args
        self.remdata = "remdata" in args
        self.flushcache = "flushcache" in args
        self.hash = Digest(args.get("hash", "md5").encode(), 1)
        self.hash_name = args.get("hash", "md5").encode()
        self.checksum_name = args.get("checksum", "").encode()
        self.mode, self.warn = diffsize(case["args"])
        self.local, self.remote = source, target
        self.end = max(len(source), len(target))
        self.lines = []
        if len(source) != len(target):
            if self.warn:
                self.lines.append(f"Different sizes local={len(source)} remote={len(target)}")
            if self.mode == "minsize":
                self.end = min(len(source), len(target))
                self.local = source[: self.end]
        self.refused = len(source) != len(target) and self.mode == "strict"
        self.step = self.block * 64 if self.twopass else self.block

    def differs(self, start, step):
        return padded(self.local, start, step) != padded(self.remote, start, step)

    def blocks(self):
        """The small blocks that differ, ascending."""
        return [s for s in range(0, self.end, self.block) if self.differs(s, self.block)]

    def patch(self):
        data = self.remote if self.remdata else self.local
        size = min(len(data), self.end)
        records = []
        for start in self.blocks():
            stop = min(start + self.block, size)
            for position in range(start, stop, PIECE):
                records.append(Record(position, data[position : min(position + PIECE, stop)]))
        checksum = None
        if self.checksum_name:
            length = -(-self.end // self.step) * self.step
            value = Digest(self.checksum_name, 5).of(padded(data, 0, length))
            checksum = (self.checksum_name, value)
        name = b"source.img" if self.remdata else b"target.img"
        return Patch(size, name, records, checksum, b"")

    def check_requests(self, messages, fixed_salt, records):
        kinds = [kind for kind, _ in messages]
        agree(messages[0] == (HELLO, b"CLIENT 0.5"), "hello")
        agree(messages[1] == (DEVFILE, b"target.img"), "devfile")
        if self.refused:
            return agree(len(messages) == 2, "messages after sizes that differ")
        agree(kinds.count(DIGESTS) == 1 and kinds[2] == DIGESTS, "digests")
        salt, name, checksum = parse_digests(messages[2][1])
        agree(len(salt) == 32 and (not fixed_salt or salt == bytes(32)), "salt")
        agree(name == self.hash_name, "digest name")
        agree(checksum == (self.checksum_name if self.remdata else b""), "checksum name")
        agree(kinds[-1] == DONE and kinds.count(DONE) == 1, "done")
        asks = bool(self.checksum_name) and self.remdata
        agree(kinds.count(GETCHECKSUM) == asks and (not asks or kinds[-2] == GETCHECKSUM), "getchecksum")
        requests = [integers(p, 3) for k, p in messages if k == GETHASHES]
        hints = [r for r in requests if r[2] == 0]
        self.check_passes([r for r in requests if r[2] != 0], hints)
        wanted = [integers(p, 2) for k, p in messages if k == GETBLOCK]
        given = [(r.position, len(r.data)) for r in records] if self.remdata else []
        agree(wanted == given, "getblock requests are not the records of the patch")
        return None

    def check_passes(self, requests, hints):
        first = [r for r in requests if r[1] == self.step]
        second = [r for r in requests if r[1] != self.step]
        at = 0
        for start, step, count in first:
            agree(start == at and count <= (MAX_MESSAGE - 25) // self.hash.size, "first pass")
            at += step * count
        agree(at == -(-self.end // self.step) * self.step, "first pass does not end where the devices do")
        expected = []
        if self.twopass:
            for start in range(0, self.end, self.step):
                if self.differs(start, self.step):
                    stop = min(start + self.step, self.end)
                    expected.append((start, self.block, -(-(stop - start) // self.block)))
        agree(sorted(second) == expected, "second pass")
        if self.flushcache:
            return agree(hints == [(0, 0, 0)], "flushcache")
        ends = sorted(start + step * count for start, step, count in requests)
        agree(all(h[1] == 1 for h in hints), "hint that is not relpos")
        agree(sorted(h[0] for h in hints) == ends, "relpos does not follow each answer")
        return None


# The three kinds of recordings


def check_sync(folder, case):
    source, target = image(case["source"]), image(case["target"])
    agree(sha256_hex(source) == case["source_sha256"], "source image")
    agree(sha256_hex(target) == case["target_sha256"], "target image")
    c2s, s2c, data = (
        (folder / n).read_bytes() for n in ("c2s.bin", "s2c.bin", "patch.bin")
    )
    asked, answered = whole(c2s), whole(s2c)
    counts["messages"] += len(asked) + len(answered)
    client = Client(case, source, target)

    server = Server({b"target.img": target})
    exit_code = server.run(c2s)
    server.compare(s2c)
    agree(exit_code == (6 if client.refused else 0), f"server ends with {exit_code}")

    agree(case["client_stderr"].splitlines() == client.lines, "client's stderr")
    agree(case["client_exit"] == (3 if client.refused else 0), "client's exit code")
    if client.refused:
        agree(data == b"", "a patch although the sizes differ")
        return client.check_requests(asked, case["fixedsalt"], [])
    patch = parse_patch(data)
    counts["records"] += len(patch.records)
    agree(patch.rest == b"" and write_patch(patch) == data, "patch written again differs")
    client.check_requests(asked, case["fixedsalt"], patch.records)
    expected = client.patch()
    if client.twopass:  # the order of records is free here (protocol.md section 5)
        patch = patch._replace(records=sorted(patch.records))
    if expected.checksum and expected.checksum[1] is None:
        counts["digests without an implementation here"] += 1
        expected = expected._replace(checksum=patch.checksum)
    for field in ("size", "name", "records", "checksum"):
        agree(getattr(patch, field) == getattr(expected, field), f"patch {field}")

    apply = case["apply"]
    devices = {b"source.img": source, b"target.img": target}
    code, devices, lines = apply_patch(data, devices, apply["device"], case["patch_args"])
    result = devices[apply["device"].encode()]
    if case["name"] in APPLY_DEVIATIONS:
        counts["deviations"] += 1
        agree(code == APPLY_DEVIATIONS[case["name"]] and code != apply["exit"], "deviation")
    else:
        agree(code == apply["exit"], f"applied with exit code {code}")
        agree(lines == apply["stderr"].splitlines(), "stderr of the patch run")
    agree(len(result) == apply["result_size"], "size of the result")
    agree(sha256_hex(result) == apply["result_sha256"], "result")
    return None


def check_server(folder, case):
    stdin = (folder / "stdin.bin").read_bytes()
    server = Server({b"target.img": image(case["target"])})
    code = server.run(stdin)
    server.compare((folder / "stdout.bin").read_bytes())
    counts["messages"] += len(whole(bytes(server.out)))
    if case["name"] in SERVER_DEVIATIONS:
        counts["deviations"] += 1
        agree(code == SERVER_DEVIATIONS[case["name"]] and code != case["exit"], "deviation")
    else:
        agree(code == case["exit"], f"server ends with {code}")


def check_patch(folder, case):
    data = (folder / "stdin.bin").read_bytes()
    before = image(case["target"])
    devices = {b"target.img": before}
    code, after, lines = apply_patch(data, devices, case["device"], case["args"])
    result = bytes(after[b"target.img"])
    if code == 2:
        agree(result == before, "a bad patch changed the target")
    if code == 0:
        patch = parse_patch(data)
        counts["records"] += len(patch.records)
        agree(write_patch(patch) == data[: len(data) - len(patch.rest)], "patch written again differs")
    if case["name"] in PATCH_DEVIATIONS:
        counts["deviations"] += 1
        agree(code == PATCH_DEVIATIONS[case["name"]] and code != case["exit"], "deviation")
    else:
        agree(code == case["exit"], f"ends with {code}")
    if code == 0:
        agree(lines == case["stderr"].splitlines(), "stderr")
    if case["name"] in HALF_APPLIED:
        counts["deviations"] += 1
        _, after, _ = apply_patch(data, devices, case["device"], case["args"], check_first=False)
        result = bytes(after[b"target.img"])
        agree(result != before, "the recording was not half applied")
    agree(len(result) == case["result_size"], "size of the result")
    agree(sha256_hex(result) == case["result_sha256"], "result")


# The documents


def check_examples():
    """Each hex example in the documents is what stands in the recording it names."""
    for document in sorted(HERE.parent.glob("*.md")):
        lines = document.read_text().splitlines()
        for number, line in enumerate(lines):
            head = re.fullmatch(r"    (\S+\.bin) at (\d+)", line)
            if not head:
                continue
            shown = b""
            for row in lines[number + 1 :]:
                found = re.match(r"    ((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:\s|$)", row)
                if not found:
                    break
                shown += bytes.fromhex(found[1])
            start = int(head[2])
            recorded = (HERE / head[1]).read_bytes()[start : start + len(shown)]
            agree(shown and shown == recorded, f"{document.name} line {number + 1}: example differs")
            counts["examples in the documents"] += 1


CHECKS = {"sync": check_sync, "server": check_server, "patch": check_patch}


def main(arguments):
    global verbose
    verbose = "-v" in arguments
    names = [a.strip("/") for a in arguments if a != "-v"]
    if not names:
        names = sorted(str(f.parent.relative_to(HERE)) for f in HERE.glob("*/*/case.json"))
    failed = 0
    try:
        check_examples()
    except Disagreement as error:
        failed += 1
        print(error)
    for name in names:
        folder = HERE / name
        kind = name.split("/")[0]
        try:
            case = json.loads((folder / "case.json").read_text())
            agree(case["name"] == folder.name, "the name in case.json is not the folder's")
            CHECKS[kind](folder, case)
            if verbose:
                print(f"{name}: ok")
        except (Disagreement, Fault) as error:
            failed += 1
            print(f"{name}: {error}")
        counts[f"{kind} recordings"] += 1
    for key in sorted(counts):
        print(f"{counts[key]:8} {key}")
    print(f"{failed:8} disagreements")
    return 1 if failed or not names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
