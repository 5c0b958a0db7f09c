"""Fetching against a real server on this machine that misbehaves."""

from __future__ import annotations

import hashlib
import json
import sys

import pytest
import requests
from toys.web import DATA, KAGGLEHUB, MD5, serving, toy

from umemma.system import http
from umemma.system.http import NotServed
from umemma.types import Source

# A server. ----------------------------------------------------------------------------------------


@pytest.fixture
def site():
    with serving({"/data.bin": DATA}) as site:
        yield site


def get(site, target, source, **arguments):
    """Download a file, and return the ranges that were requested."""
    http.fetch_http(f"{site.url}/data.bin", target, source, pause=0.001, **arguments)
    return [requested for _, requested in site.asked]


def left(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# http ---------------------------------------------------------------------------------------------


def test_a_file_comes_whole_with_its_progress(site, tmp_path):
    seen = []
    target = tmp_path / "deep" / "data.bin"
    source = Source("data.bin", size=len(DATA), checksum=MD5)
    assert get(site, target, source, advance=lambda done, total: seen.append((done, total))) == [""]
    assert target.read_bytes() == DATA
    assert left(target.parent) == ["data.bin"]
    assert seen[0] == (0, len(DATA))
    assert seen[-1] == (len(DATA), len(DATA))


@pytest.mark.parametrize(
    "source", [Source("data.bin"), Source("data.bin", size=len(DATA), checksum=MD5)]
)
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


def test_another_version_or_address_starts_from_the_beginning(site, tmp_path):
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
            http.fetch_http(f"{site.url}/mirror.bin", tmp_path / "data.bin", Source("data.bin"))
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


def test_a_server_without_ranges_starts_from_the_beginning(site, tmp_path):
    site.cuts, site.ranges = [1000], False
    assert get(site, tmp_path / "data.bin", Source("data.bin", checksum=MD5)) == ["", "bytes=1000-"]
    assert (tmp_path / "data.bin").read_bytes() == DATA


def hash_address(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def test_a_note_of_a_part_holds_no_password(site, tmp_path):
    site.files["/data.bin?token=hunter2"], site.cuts = DATA, [700, 0]
    url = site.url.replace("://", "://me:hunter2@") + "/data.bin?token=hunter2"
    with pytest.raises(NotServed):
        http.fetch_http(url, tmp_path / "data.bin", Source("data.bin"), retries=1, pause=0.0)
    note = (tmp_path / ".data.bin.part.json").read_text()
    assert hash_address(url) in note
    assert "hunter2" not in note


def test_a_part_that_is_whole_already_is_not_fetched_again(site, tmp_path):
    """Killed between the last byte and the rename."""
    (tmp_path / ".data.bin.part").write_bytes(DATA)
    note = {
        "address": hash_address(f"{site.url}/data.bin"),
        "total": len(DATA),
        "validator": '"one"',
    }
    (tmp_path / ".data.bin.part.json").write_text(json.dumps(note))
    assert get(site, tmp_path / "data.bin", Source("data.bin")) == [
        f"bytes={len(DATA)}-"
    ]  # answered by 416
    assert (tmp_path / "data.bin").read_bytes() == DATA


@pytest.mark.parametrize("part", [DATA + b"more", b"wrong" * 200])
def test_a_part_of_something_else_is_dropped(site, tmp_path, part):
    """Too long, or with other bytes, which only the checksum tells."""
    (tmp_path / ".data.bin.part").write_bytes(part)
    note = {
        "address": hash_address(f"{site.url}/data.bin"),
        "total": len(DATA),
        "validator": '"one"',
    }
    (tmp_path / ".data.bin.part.json").write_text(json.dumps(note))
    assert get(site, tmp_path / "data.bin", Source("data.bin", checksum=MD5)) == [
        f"bytes={len(part)}-",
        "",
    ]
    assert (tmp_path / "data.bin").read_bytes() == DATA


def test_a_busy_server_is_tried_again_and_a_missing_file_is_not(site, tmp_path):
    site.busy = 3
    assert len(get(site, tmp_path / "data.bin", Source("data.bin"))) == 4
    site.busy = 3
    with pytest.raises(NotServed, match="503"):
        get(site, tmp_path / "again.bin", Source("data.bin"), retries=2)
    site.busy, site.asked = 0, []
    with pytest.raises(NotServed, match="404"):
        http.fetch_http(f"{site.url}/nothing.bin", tmp_path / "nothing.bin", Source("nothing.bin"))
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
    monkeypatch.setattr(http, "UNSIZED", 50)
    with pytest.raises(NotServed, match="more than 50 bytes"):
        get(site, tmp_path / "more.bin", Source("data.bin"))


def test_a_web_page_is_not_the_file(site, tmp_path):
    site.kind = "text/html; charset=utf-8"
    with pytest.raises(NotServed, match="web page"):
        get(site, tmp_path / "data.bin", Source("data.bin"))


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://host.example/x", "/data.bin"])
def test_a_redirect_leads_to_http_only_and_ends(site, tmp_path, target):
    site.redirects["/data.bin"] = target
    with pytest.raises(NotServed, match=r"No connection adapters|Exceeded 30 redirects"):
        get(site, tmp_path / "data.bin", Source("data.bin"))
    assert left(tmp_path) == []


def test_https_does_not_lead_to_http(site, tmp_path, monkeypatch):
    """As if a server of https redirected there."""
    get_page = requests.Session.get

    def get_without_https(self, url, **arguments):
        return get_page(self, url.replace("https:", "http:"), **arguments)

    monkeypatch.setattr(requests.Session, "get", get_without_https)
    address = site.url.replace("http:", "https:") + "/data.bin"
    with pytest.raises(NotServed, match="from https to http"):
        http.fetch_http(address, tmp_path / "data.bin", Source("data.bin"))
    assert left(tmp_path) == []


def test_a_host_that_does_not_answer_is_given_up_soon(tmp_path):
    with serving({}) as site:
        url = site.url
    with pytest.raises(http.Unreachable, match="can't be reached"):
        http.fetch_http(f"{url}/data.bin", tmp_path / "data.bin", Source("data.bin"), pause=0.001)
    with pytest.raises(NotServed):
        http.fetch_http("http://", tmp_path / "data.bin", Source("data.bin"), pause=0.001)


# gdown and kagglehub: toy doubles with the arguments of gdown 6.5 and kagglehub 1.0. --------------

GDOWN = """
class DownloadError(Exception):
    pass

def download(
    url=None,
    output=None,
    quiet=False,
    *,
    id=None,
    resume=False,
    timeout=None,
    retries=0,
    progress=None,
):
    if id == "private":
        raise DownloadError("Cannot retrieve\\nthe link.")
    assert quiet and resume and retries and timeout
    progress(4, None)
    with open(output, "wb") as file:
        file.write(b"data")
    return output
"""


def test_google_drive(tmp_path, monkeypatch):
    toy(monkeypatch, "gdown", GDOWN)
    seen = []
    target = tmp_path / "raw" / "a.zip"
    http.fetch_gdrive(
        "ID", target, Source("a.zip", size=4), lambda done, total: seen.append((done, total))
    )
    assert (target.read_bytes(), seen, left(target.parent)) == (b"data", [(4, 4)], ["a.zip"])
    with pytest.raises(NotServed, match=r"^Cannot retrieve the link\.$"):
        http.fetch_gdrive("private", target, Source("a.zip"))
    with pytest.raises(NotServed, match="has 4 bytes, not 5"):
        http.fetch_gdrive("ID", tmp_path / "raw" / "b.zip", Source("b.zip", size=5))
    assert left(target.parent) == ["a.zip"]


def test_kaggle(monkeypatch):
    toy(monkeypatch, "kagglehub", KAGGLEHUB)
    assert http.fetch_kaggle("owner/name").as_posix() == "/cache/owner/name"
    with pytest.raises(NotServed, match=r"^403 Client Error\. Make sure you are authenticated\.$"):
        http.fetch_kaggle("owner/private")


def test_an_extra_that_is_not_installed_is_named(tmp_path, monkeypatch):
    for name in ("gdown", "kagglehub"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    with pytest.raises(NotServed, match=r"pip install 'umemma\[gdrive\]'"):
        http.fetch_gdrive("ID", tmp_path / "a.zip", Source("a.zip"))
    with pytest.raises(NotServed, match=r"pip install 'umemma\[kaggle\]'"):
        http.fetch_kaggle("owner/name")
