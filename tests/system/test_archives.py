"""Archives: where their members go, and what happens to hostile and damaged ones."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import stat
import tarfile
import tracemalloc

import pytest
from toys.archives import files, tarred, zipped

from umemma.errors import UserError
from umemma.system import archives

MEMBERS = {
    "top/AVE/a.mp4": b"A" * 3000,
    "top/AVE/b.mp4": b"B",
    "./top/list.txt": b"1\n2\n",
    "top/readme": b"no",
}
PLACES = {
    "top/AVE/a.mp4": "AVE/a.mp4",
    "top/AVE/b.mp4": "AVE/b.mp4",
    "top/list.txt": "list.txt",
    "top/readme": None,
}


def unpack(folder, data: bytes, place=None, bound=10**6, **arguments):
    (folder / "archive").write_bytes(data)
    return archives.unpack(
        folder / "archive",
        folder / "raw",
        place or (lambda name: PLACES.get(name)),
        bound=bound,
        **arguments,
    )


@pytest.mark.parametrize(
    "data",
    [
        tarred(MEMBERS),
        *(tarred(MEMBERS, f"w:{kind}") for kind in ("gz", "bz2", "xz")),
        zipped(MEMBERS),
    ],
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


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:\\evil", "C:evil"]
)
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
    assert unpack(
        inner, pack({"fine": b"1", name: b"evil"}), {"fine": "fine"}.get
    )  # not wanted: not looked at


@pytest.mark.parametrize("target", ["../evil", "/tmp/evil", "a/../../evil", "", ".", "C:/evil"])
def test_a_place_outside_of_the_folder_is_refused(tmp_path, target):
    with pytest.raises(UserError, match="would leave the folder"):
        unpack(tmp_path, tarred({"fine": b"1"}), lambda name: target)
    assert set(files(tmp_path)) == {"archive"}


@pytest.mark.parametrize(
    "kind",
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.LNKTYPE, "fine"),
        (tarfile.FIFOTYPE, ""),
        (tarfile.CHRTYPE, ""),
    ],
)
def test_links_and_devices_of_a_tar(tmp_path, kind):
    data = tarred({"fine": b"1", "link": kind, "last": b"2"})
    with pytest.raises(UserError, match=r"member 'link' is a link, a device"):
        unpack(tmp_path, data, lambda name: name)
    shutil.rmtree(tmp_path / "raw")
    assert unpack(tmp_path, data, {"fine": "fine", "last": "last"}.get) == {
        "fine": "fine",
        "last": "last",
    }
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


LONG_NAMES = [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE]


def make_header(kind: bytes, size: int, name: str = "a") -> bytes:
    """A header of a tar, without what it announces."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", LONG_NAMES)
def test_a_name_of_gigabytes_takes_no_memory(tmp_path, kind):
    data = gzip.compress(make_header(kind, 2**28) + bytes(2**28), 9)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"damaged archive: a header of 268,435,456 bytes"):
            unpack(tmp_path, data, lambda name: name)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [2**62, 2**40, -(2**40)])
def test_a_member_of_centuries_ends_with_the_file(tmp_path, size):
    """tarfile would skip it in steps that read nothing, without end."""
    data = gzip.compress(make_header(tarfile.REGTYPE, size))
    with pytest.raises(UserError, match="damaged archive"):
        unpack(tmp_path, data, lambda name: None)


def test_header_upon_header_is_damaged(tmp_path):
    header = make_header(tarfile.GNUTYPE_LONGNAME, 1) + b"a" + bytes(511)
    with pytest.raises(UserError, match="damaged archive"):
        unpack(tmp_path, header * 5000, lambda name: name)


def test_a_zip_whose_name_is_not_the_utf_8_that_it_says(tmp_path):
    data = zipped({"\N{SNOWMAN}": b"1"}).replace("\N{SNOWMAN}".encode(), b"\xe2\x98\xff")
    with pytest.raises(UserError, match="damaged archive"):
        unpack(tmp_path, data, lambda name: name)


def test_a_zip_member_that_is_larger_than_it_says_is_damaged(tmp_path):
    data = bytearray(zipped({"a": bytes(600)}))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (5).to_bytes(4, "little")  # its unpacked size
    with pytest.raises(UserError, match="damaged archive"):
        unpack(tmp_path, bytes(data), lambda name: name)
    assert files(tmp_path) == {"archive": bytes(data)}


NOISE = b"".join(
    hashlib.sha256(bytes([i])).digest() for i in range(256)
)  # 8,192 bytes that don't compress


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
    "data",
    [b"", b"no archive", b"<html>" * 500, zipped({"a": NOISE})[:-9], b"PK\x03\x04", b"\x1f\x8b"],
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
