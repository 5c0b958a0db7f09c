"""Fetching against a real server on this machine that misbehaves; archives that are hostile or damaged."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import stat
import sys
import tarfile
import threading
import types
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from umemma import fetch
from umemma.contracts import Source
from umemma.errors import UserError
from umemma.fetch import NotServed

DATA = bytes(range(256)) * 400  # 102,400 bytes
MD5 = f"md5:{hashlib.md5(DATA).hexdigest()}"


# A server. ------------------------------------------------------------------------------------------------------------


class Site:
    """What a server has and how it behaves; every request is noted as (path, Range)."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[tuple[str, str]] = []
        self.conditions: list[str] = []  # If-Range
        self.cuts: list[int] = []  # bytes after which each of the next bodies is cut
        self.busy = 0  # answers of 503 before anything else
        self.ranges = True
        self.etag = '"one"'
        self.kind = "application/octet-stream"
        self.length = True
        self.stall: threading.Event | None = None  # waited for where a body is cut, instead of cutting
        self.url = ""


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            wanted = self.headers.get("Range", "")
            site.asked.append((self.path, wanted))
            condition = self.headers.get("If-Range", "")
            site.conditions.append(condition)
            if site.busy:
                site.busy -= 1
                self.send_error(503)
                return
            if self.path not in site.files:
                self.send_error(404)
                return
            data = site.files[self.path]
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and site.ranges else 0
            if condition and condition != site.etag:
                start = 0
            if start >= len(data) > 0:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            if site.etag:
                self.send_header("ETag", site.etag)
            self.send_header("Content-Type", site.kind)
            if site.length:
                self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            cut = site.cuts.pop(0) if site.cuts else len(data)
            self.wfile.write(data[start : start + cut])
            if cut < len(data) and site.stall:
                self.wfile.flush()
                site.stall.wait(30)

    return Handler


@contextlib.contextmanager
def serving(files: dict[str, bytes]):
    site = Site(files)
    server = _Quiet(("127.0.0.1", 0), _handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        if site.stall:
            site.stall.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def site():
    with serving({"/data.bin": DATA}) as site:
        yield site


def get(site, target, source, **arguments):
    fetch.http(f"{site.url}/data.bin", target, source, pause=0.001, **arguments)
    return [wanted for _, wanted in site.asked]


def left(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# http -----------------------------------------------------------------------------------------------------------------


def test_a_file_comes_whole_with_its_progress(site, tmp_path):
    seen = []
    target = tmp_path / "deep" / "data.bin"
    source = Source("data.bin", size=len(DATA), checksum=MD5)
    assert get(site, target, source, advance=lambda done, total: seen.append((done, total))) == [""]
    assert target.read_bytes() == DATA
    assert left(target.parent) == ["data.bin"]
    assert seen[0] == (0, len(DATA))
    assert seen[-1] == (len(DATA), len(DATA))


@pytest.mark.parametrize("source", [Source("data.bin"), Source("data.bin", size=len(DATA), checksum=MD5)])
def test_a_cut_connection_is_continued_where_it_broke(site, tmp_path, source):
    site.cuts = [1000, 500]
    assert get(site, tmp_path / "data.bin", source) == ["", "bytes=1000-", "bytes=1500-"]
    assert site.conditions == ["", '"one"', '"one"']
    assert (tmp_path / "data.bin").read_bytes() == DATA
    assert left(tmp_path) == ["data.bin"]


def test_what_came_before_a_failure_is_there_for_the_next_run(site, tmp_path):
    site.cuts = [700, 0, 0]
    with pytest.raises(NotServed, match="cut"):
        get(site, tmp_path / "data.bin", Source("data.bin"), retries=2)
    assert left(tmp_path) == [".data.bin.part", ".data.bin.part.json"]
    assert get(site, tmp_path / "data.bin", Source("data.bin"))[-1] == "bytes=700-"
    assert (tmp_path / "data.bin").read_bytes() == DATA


def test_another_version_or_address_is_begun_anew(site, tmp_path):
    other = b"another version, and shorter"
    for change in ("version", "address"):
        site.files["/data.bin"], site.cuts, site.etag = DATA, [2000, 0], '"one"'
        with pytest.raises(NotServed):
            get(site, tmp_path / "data.bin", Source("data.bin"), retries=1)
        if change == "version":
            site.files["/data.bin"], site.etag = other, '"two"'
            get(site, tmp_path / "data.bin", Source("data.bin"))
        else:
            other = b"m" * len(DATA)  # of the same length
            site.files["/mirror.bin"] = other
            fetch.http(f"{site.url}/mirror.bin", tmp_path / "data.bin", Source("data.bin"))
            assert site.asked[-1] == ("/mirror.bin", "")
        assert (tmp_path / "data.bin").read_bytes() == other
        (tmp_path / "data.bin").unlink()


def test_without_a_validator_the_length_tells_another_version(site, tmp_path):
    site.cuts, site.etag = [2000, 0], ""
    with pytest.raises(NotServed):
        get(site, tmp_path / "data.bin", Source("data.bin"), retries=1)
    site.files["/data.bin"] = b"x" * 3000
    assert get(site, tmp_path / "data.bin", Source("data.bin"))[-2:] == ["bytes=2000-", ""]
    assert (tmp_path / "data.bin").read_bytes() == b"x" * 3000


def test_a_server_without_ranges_is_begun_anew(site, tmp_path):
    site.cuts, site.ranges = [1000], False
    assert get(site, tmp_path / "data.bin", Source("data.bin", checksum=MD5)) == ["", "bytes=1000-"]
    assert (tmp_path / "data.bin").read_bytes() == DATA


def test_a_part_that_is_whole_already_is_not_fetched_again(site, tmp_path):
    """Killed between the last byte and the rename."""
    (tmp_path / ".data.bin.part").write_bytes(DATA)
    note = {"url": f"{site.url}/data.bin", "total": len(DATA), "validator": '"one"'}
    (tmp_path / ".data.bin.part.json").write_text(json.dumps(note))
    assert get(site, tmp_path / "data.bin", Source("data.bin")) == [f"bytes={len(DATA)}-"]  # answered by 416
    assert (tmp_path / "data.bin").read_bytes() == DATA


@pytest.mark.parametrize("part", [DATA + b"more", b"wrong" * 200])
def test_a_part_of_something_else_is_dropped(site, tmp_path, part):
    """Too long, or with other bytes, which only the checksum tells."""
    (tmp_path / ".data.bin.part").write_bytes(part)
    note = {"url": f"{site.url}/data.bin", "total": len(DATA), "validator": '"one"'}
    (tmp_path / ".data.bin.part.json").write_text(json.dumps(note))
    assert get(site, tmp_path / "data.bin", Source("data.bin", checksum=MD5)) == [f"bytes={len(part)}-", ""]
    assert (tmp_path / "data.bin").read_bytes() == DATA


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(site, tmp_path):
    site.busy = 3
    assert len(get(site, tmp_path / "data.bin", Source("data.bin"))) == 4
    site.busy = 3
    with pytest.raises(NotServed, match="503"):
        get(site, tmp_path / "again.bin", Source("data.bin"), retries=2)
    site.busy, site.asked = 0, []
    with pytest.raises(NotServed, match="404"):
        fetch.http(f"{site.url}/nothing.bin", tmp_path / "nothing.bin", Source("nothing.bin"))
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (Source("data.bin", checksum="md5:" + "0" * 32), "has the md5 .*, not 000"),
        (Source("data.bin", size=5), "has 102,400 bytes, not 5"),
    ],
)
def test_wrong_bytes_are_refused_at_once(site, tmp_path, source, reason):
    with pytest.raises(NotServed, match=reason):
        get(site, tmp_path / "data.bin", source)
    assert len(site.asked) == 1
    assert left(tmp_path) == []


def test_a_body_without_a_length_is_bounded(site, tmp_path, monkeypatch):
    site.length = False
    with pytest.raises(NotServed, match="more than 1,000 bytes"):
        get(site, tmp_path / "data.bin", Source("data.bin", size=1000))
    assert left(tmp_path) == []
    get(site, tmp_path / "data.bin", Source("data.bin"))
    assert (tmp_path / "data.bin").read_bytes() == DATA
    monkeypatch.setattr(fetch, "UNSIZED", 50)
    with pytest.raises(NotServed, match="more than 50 bytes"):
        get(site, tmp_path / "more.bin", Source("data.bin"))


def test_a_web_page_is_not_the_file(site, tmp_path):
    site.kind = "text/html; charset=utf-8"
    with pytest.raises(NotServed, match="web page"):
        get(site, tmp_path / "data.bin", Source("data.bin"))


def test_a_host_that_is_not_there_is_given_up_soon(tmp_path):
    with serving({}) as site:
        url = site.url
    with pytest.raises(fetch.Unreachable, match="can't be reached"):
        fetch.http(f"{url}/data.bin", tmp_path / "data.bin", Source("data.bin"), pause=0.001)
    with pytest.raises(NotServed):
        fetch.http("http://", tmp_path / "data.bin", Source("data.bin"), pause=0.001)


# gdown and kagglehub: toy doubles with the arguments of gdown 6.5 and kagglehub 1.0. -----------------------------------

GDOWN = """
class DownloadError(Exception):
    pass

def download(url=None, output=None, quiet=False, *, id=None, resume=False, timeout=None, retries=0, progress=None):
    if id == "private":
        raise DownloadError("Cannot retrieve\\nthe link.")
    assert quiet and resume and retries and timeout
    progress(4, None)
    with open(output, "wb") as file:
        file.write(b"data")
    return output
"""
KAGGLEHUB = """
def dataset_download(handle, path=None, *, force_download=False, output_dir=None):
    if handle == "owner/private":
        raise ValueError("403 Client Error.\\nMake sure you are authenticated.")
    return "/cache/" + handle
"""


def toy(monkeypatch, name, code):
    module = types.ModuleType(name)
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, name, module)


def test_google_drive(tmp_path, monkeypatch):
    toy(monkeypatch, "gdown", GDOWN)
    seen = []
    target = tmp_path / "raw" / "a.zip"
    fetch.gdrive("ID", target, Source("a.zip", size=4), lambda done, total: seen.append((done, total)))
    assert (target.read_bytes(), seen, left(target.parent)) == (b"data", [(4, 4)], ["a.zip"])
    with pytest.raises(NotServed, match=r"^Cannot retrieve the link\.$"):
        fetch.gdrive("private", target, Source("a.zip"))
    with pytest.raises(NotServed, match="has 4 bytes, not 5"):
        fetch.gdrive("ID", tmp_path / "raw" / "b.zip", Source("b.zip", size=5))
    assert left(target.parent) == ["a.zip"]


def test_kaggle(monkeypatch):
    toy(monkeypatch, "kagglehub", KAGGLEHUB)
    assert fetch.kaggle("owner/name").as_posix() == "/cache/owner/name"
    with pytest.raises(NotServed, match=r"^403 Client Error\. Make sure you are authenticated\.$"):
        fetch.kaggle("owner/private")


def test_an_extra_that_is_not_installed_is_named(tmp_path, monkeypatch):
    for name in ("gdown", "kagglehub"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    with pytest.raises(NotServed, match=r"pip install 'umemma\[gdrive\]'"):
        fetch.gdrive("ID", tmp_path / "a.zip", Source("a.zip"))
    with pytest.raises(NotServed, match=r"pip install 'umemma\[kaggle\]'"):
        fetch.kaggle("owner/name")


# matches, download.json -------------------------------------------------------------------------------------------------


def test_matches_says_what_is_wrong(tmp_path):
    path = tmp_path / "file"
    assert fetch.matches(path, Source("file")) == "is missing"
    path.write_bytes(b"")
    assert fetch.matches(path, Source("file")) == "is empty"
    path.write_bytes(b"abc")
    assert fetch.matches(path, Source("file")) == ""
    assert fetch.matches(path, Source("file", size=3)) == ""
    assert fetch.matches(path, Source("file", size=4)) == "has 3 bytes, not 4"
    md5, sha = "900150983cd24fb0d6963f7d28e17f72", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert fetch.matches(path, Source("file", checksum=f"md5:{md5}")) == ""
    assert fetch.matches(path, Source("file", size=99, checksum=f"sha256:{sha.upper()}")) == ""  # the checksum decides
    assert fetch.matches(path, Source("file", checksum=f"md5:{md5[:-1]}3")) == f"has the md5 {md5}, not {md5[:-1]}3"


def test_matches_looks_into_gz(tmp_path):
    path, md5 = tmp_path / "file.gz", "gunzip-md5:900150983cd24fb0d6963f7d28e17f72"
    for time in (0, 1):  # another header, the same content
        path.write_bytes(gzip.compress(b"abc", mtime=time))
        assert fetch.matches(path, Source("file.gz", checksum=md5)) == ""
    for damaged in (path.read_bytes()[:-5], b"no gz", path.read_bytes()[:12] + b"\xff" + path.read_bytes()[13:]):
        path.write_bytes(damaged)
        assert fetch.matches(path, Source("file.gz", checksum=md5)) == "is a damaged .gz file"


def test_raw_files_and_check(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"abc")
    (tmp_path / "clip.mp4").write_bytes(b"clip")
    sha = hashlib.sha256(b"abc").hexdigest()
    files = {
        "clip.mp4": {"sha256": "0" * 64, "size": 4, "media": True},
        "list.txt": {"sha256": sha, "size": 3, "media": False},
    }
    (tmp_path / "download.json").write_text(json.dumps({"dataset": "toy", "files": files}))
    listed = fetch.raw_files(tmp_path, "Run: again")
    assert listed["list.txt"] == fetch.RawFile(sha256=sha, size=3)
    fetch.check(tmp_path, listed, "Run: again")  # media by size only
    for name, content in (("list.txt", b"abd"), ("clip.mp4", b"shorter"), ("clip.mp4", None), ("list.txt", None)):
        path = tmp_path / name
        whole = path.read_bytes()
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(UserError, match=r"raw file is missing or differs from download\.json") as error:
            fetch.check(tmp_path, listed, "Run: again")
        assert (error.value.where, error.value.hint) == (str(path), "Run: again")
        path.write_bytes(whole)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": {"a": "0123"}}', '{"files": {"a": {"size": -1}}}'])
def test_a_damaged_list_is_refused(tmp_path, content):
    (tmp_path / "download.json").write_text(content)
    with pytest.raises(UserError, match="damaged") as error:
        fetch.raw_files(tmp_path, "Run: again")
    assert error.value.hint == "Run: again"


# unpack -----------------------------------------------------------------------------------------------------------------

MEMBERS = {"top/AVE/a.mp4": b"A" * 3000, "top/AVE/b.mp4": b"B", "./top/list.txt": b"1\n2\n", "top/readme": b"no"}
PLACES = {"top/AVE/a.mp4": "AVE/a.mp4", "top/AVE/b.mp4": "AVE/b.mp4", "top/list.txt": "list.txt", "top/readme": None}


def tarred(members: dict, mode: str = "w") -> bytes:
    """A tar of {name: bytes, or a type and link name}."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                info.mode = 0o4777
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return file.getvalue()


def zipped(members: dict[str, bytes], mode: int = 0) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("top/", b"")
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return file.getvalue()


def unpack(folder, data: bytes, place=None, bound=10**6, **arguments):
    (folder / "archive").write_bytes(data)
    return fetch.unpack(
        folder / "archive", folder / "raw", place or (lambda name: PLACES.get(name)), bound=bound, **arguments
    )


def files(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "data",
    [tarred(MEMBERS), *(tarred(MEMBERS, f"w:{kind}") for kind in ("gz", "bz2", "xz")), zipped(MEMBERS)],
    ids=["tar", "gz", "bz2", "xz", "zip"],
)
def test_wanted_members_go_to_their_places(tmp_path, data):
    seen = []
    assert unpack(tmp_path, data, advance=lambda done, total: seen.append((done, total))) == PLACES
    content = {"AVE/a.mp4": b"A" * 3000, "AVE/b.mp4": b"B", "list.txt": b"1\n2\n"}
    assert files(tmp_path / "raw") == content
    assert not (tmp_path / "raw/AVE/a.mp4").stat().st_mode & (stat.S_ISUID | stat.S_IXUSR)
    assert all(0 <= done <= total == len(data) for done, total in seen)
    (tmp_path / "raw/AVE/a.mp4").write_bytes(b"half")  # of a run that was killed
    unpack(tmp_path, data)
    assert files(tmp_path / "raw") == content


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:\\evil", "C:evil"])
@pytest.mark.parametrize("pack", [tarred, zipped])
def test_a_member_that_would_leave_the_folder_is_refused(tmp_path, name, pack):
    inner = tmp_path / "inner"
    inner.mkdir()
    before = files(tmp_path)
    for place in (lambda name: name, lambda name: "evil"):
        with pytest.raises(UserError, match="would leave the folder") as error:
            unpack(inner, pack({"fine": b"1", name: b"evil"}), place)
        assert "evil" in error.value.what
    names = set(files(tmp_path)) - set(before)
    assert names <= {"inner/archive", "inner/raw/fine", "inner/raw/evil"}
    assert files(inner / "raw")["evil"] == b"1"
    assert not os.path.exists("/tmp/evil")
    assert unpack(inner, pack({"fine": b"1", name: b"evil"}), {"fine": "fine"}.get)  # not wanted: not looked at


@pytest.mark.parametrize("target", ["../evil", "/tmp/evil", "a/../../evil", "", ".", "C:/evil"])
def test_a_place_outside_of_the_folder_is_refused(tmp_path, target):
    with pytest.raises(UserError, match="would leave the folder"):
        unpack(tmp_path, tarred({"fine": b"1"}), lambda name: target)
    assert set(files(tmp_path)) == {"archive"}


@pytest.mark.parametrize(
    "kind", [(tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "fine"), (tarfile.FIFOTYPE, ""), (tarfile.CHRTYPE, "")]
)
def test_links_and_devices_of_a_tar(tmp_path, kind):
    data = tarred({"fine": b"1", "link": kind, "last": b"2"})
    with pytest.raises(UserError, match=r"member 'link' is a link, a device"):
        unpack(tmp_path, data, lambda name: name)
    shutil.rmtree(tmp_path / "raw")
    assert unpack(tmp_path, data, {"fine": "fine", "last": "last"}.get) == {"fine": "fine", "last": "last"}
    assert files(tmp_path / "raw") == {"fine": b"1", "last": b"2"}


def test_links_and_encrypted_members_of_a_zip(tmp_path):
    with pytest.raises(UserError, match="is a link"):
        unpack(tmp_path, zipped({"link": b"/etc/passwd"}, stat.S_IFLNK | 0o777), lambda name: name)
    data = bytearray(zipped({"secret": b"1"}, stat.S_IFREG | 0o644))
    at = data.rindex(b"PK\x01\x02")
    data[at + 8] |= 1  # the flag "encrypted" in the central directory
    with pytest.raises(UserError, match="encrypted"):
        unpack(tmp_path, bytes(data), lambda name: name)
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("pack", [lambda m: tarred(m, "w:gz"), zipped])
def test_a_bomb_is_stopped(tmp_path, pack):
    data = pack({"a": bytes(600), "b": bytes(600), "other": bytes(10**6)})
    assert unpack(tmp_path, data, {"a": "a", "b": "b"}.get, bound=1200)
    with pytest.raises(UserError, match="more than 1,199 bytes"):
        unpack(tmp_path, data, {"a": "a", "b": "b"}.get, bound=1199)


def test_a_zip_member_that_is_larger_than_it_says_is_damaged(tmp_path):
    data = bytearray(zipped({"a": bytes(600)}))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (5).to_bytes(4, "little")  # its unpacked size
    with pytest.raises(UserError, match="damaged archive"):
        unpack(tmp_path, bytes(data), lambda name: name)
    assert files(tmp_path) == {"archive": bytes(data)}


NOISE = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(256))  # 8,192 bytes that don't compress


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("members", [{"a": NOISE, "b": NOISE}])
def test_a_truncated_tar_is_damaged_wherever_it_ends(tmp_path, compress, members):
    """Also where a member ends, which tarfile takes for the end of the archive."""
    plain = tarred(members)
    for end in (512 + 8192, 512 + 5000, 512 + 8192 + 200, 2 * (512 + 8192)):
        with pytest.raises(UserError, match="damaged archive"):
            unpack(tmp_path, compress(plain[:end]), lambda name: name)
    packed = compress(plain)
    if compress is not bytes:
        for data in (packed[:-4], packed[:-1000]):
            with pytest.raises(UserError, match="damaged archive"):
                unpack(tmp_path, data, lambda name: name)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_flipped_byte_is_damage(tmp_path, compress):
    packed = bytearray(compress(tarred({"a": NOISE})))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(UserError, match="damaged archive"):
        unpack(tmp_path, bytes(packed), lambda name: name)


def test_a_damaged_header_is_not_the_end(tmp_path):
    data = bytearray(tarred({"a": NOISE, "b": NOISE}))
    data[512 + 8192 + 3] ^= 0xFF  # in the name of the second member
    with pytest.raises(UserError, match="damaged archive"):
        unpack(tmp_path, bytes(data), lambda name: name)


@pytest.mark.parametrize(
    "data", [b"", b"no archive", b"<html>" * 500, zipped({"a": NOISE})[:-9], b"PK\x03\x04", b"\x1f\x8b"]
)
def test_what_is_no_archive_is_damaged(tmp_path, data):
    with pytest.raises(UserError, match="damaged archive"):
        unpack(tmp_path, data, lambda name: name)


def test_hidden_members_are_never_wanted(tmp_path):
    """`.done/` is ours, and `._a.mp4` is a Mac's."""
    data = zipped({"AVE/a.mp4": b"1", "AVE/._a.mp4": b"2", ".done/a.json": b"3"})
    places = {"AVE/a.mp4": "AVE/a.mp4", "AVE/._a.mp4": None, ".done/a.json": None}
    assert unpack(tmp_path, data, lambda name: name) == places
    assert files(tmp_path / "raw") == {"AVE/a.mp4": b"1"}


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="one name for a file and a folder"):
        unpack(tmp_path, tarred({"a": b"1", "a/b": b"2"}), lambda name: name)


def test_tree_is_sorted_and_leaves_out_what_is_hidden(tmp_path):
    for name in ("b/z", "b/a", "a.txt", ".done/x", "b/.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert fetch.tree(tmp_path) == ["a.txt", "b/a", "b/z"]
