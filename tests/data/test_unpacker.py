"""Archives: unpacked, copied, resumed, and placed by hand."""

from __future__ import annotations

import hashlib

import pytest
from toys.archives import files, tarred, zipped
from toys.download import CLIPS, RAW, WHOLE, clips, place, read_list
from toys.web import MD5

from umemma.data import raw_folder
from umemma.errors import UserError
from umemma.types import Source


def test_an_archive_is_unpacked_and_not_kept(site, use, said):
    use(clips(site, files=3))
    assert read_list() == WHOLE
    assert set(files(RAW)) == {*WHOLE, "download.json", ".done/clips.zip.json"}
    assert not (RAW / ".fetched").exists()
    assert any("clips.zip: 3 files unpacked" in line for line in said)
    use(clips(site, files=3))
    assert len(site.asked) == 1
    checksum = f"sha256:{hashlib.sha256(site.files['/clips.zip']).hexdigest()}"
    use(
        clips(site, files=3, checksum=checksum)
    )  # there is a new version of the archive, as far as is known
    assert len(site.asked) == 2


def test_a_file_of_an_archive_that_is_gone_or_changed_is_unpacked_again(site, use, said):
    use(clips(site))
    for change in ("gone", "changed"):
        (RAW / "clips/a.mp4").unlink() if change == "gone" else (RAW / "clips/a.mp4").write_bytes(
            b"longer"
        )
        use(clips(site))
        assert read_list() == WHOLE
    assert len(site.asked) == 3
    (RAW / "clips/a.mp4").unlink()
    site.files = {}
    use(clips(site))  # lost clips are usual
    assert set(read_list()) == {"clips/b.mp4", "list.txt"}
    assert any(line.startswith("WARNING") and "missing or changed" in line for line in said)


def test_other_options_may_need_more_of_an_archive(site, use):
    def sources(folder, options):
        only = f"clips/{options.only}.mp4"
        yield Source(
            "c.zip",
            (f"{site.url}/clips.zip",),
            unpack=lambda name: only if name.endswith(only) else None,
        )

    use(sources, only="a")
    use(sources, only="a")
    assert (set(read_list()), len(site.asked)) == ({"clips/a.mp4"}, 1)
    use(sources, only="b")
    assert (set(read_list()), len(site.asked)) == ({"clips/b.mp4"}, 2)


def test_archives_with_one_rule_are_told_apart_by_what_they_held(site, use):
    """Files of the first one don't pass for an unpacked copy of the second."""
    site.files |= {"/1.tar": tarred({"clips/a.mp4": b"1"}), "/2.tar": tarred({"clips/b.mp4": b"2"})}
    one, two = (
        Source(name, (f"{site.url}/{name}",), unpack=place, media=True)
        for name in ("1.tar", "2.tar")
    )
    use(one, two)
    assert set(read_list()) == {"clips/a.mp4", "clips/b.mp4"}
    (RAW / ".done/1.tar.json").unlink()
    (RAW / "clips/a.mp4").unlink()
    use(one, two)
    assert (set(read_list()), len(site.asked)) == ({"clips/a.mp4", "clips/b.mp4"}, 3)


def test_a_damaged_archive_is_fetched_anew_by_the_next_run(site, use):
    """Also where a part of it was unpacked: that doesn't pass for a copy unpacked by hand."""
    whole = tarred(CLIPS)
    site.files["/clips.zip"] = whole[:2500]  # the first two clips
    with pytest.raises(UserError, match="damaged archive"):
        use(clips(site))
    assert not (RAW / ".fetched/clips.zip").exists()
    assert set(files(RAW)) == {"clips/a.mp4", "clips/b.mp4", ".done/clips.zip.json"}
    site.files["/clips.zip"] = whole
    use(clips(site))
    assert read_list() == WHOLE


def test_a_hostile_archive_is_refused(site, use, tmp_path):
    site.files["/clips.zip"] = zipped({"../clips/evil.mp4": b"!"})
    with pytest.raises(UserError, match=r"hostile: its member '\.\./clips/evil\.mp4'"):
        use(Source("clips.zip", (f"{site.url}/clips.zip",), unpack=lambda name: name))
    assert not list(tmp_path.rglob("evil*"))
    site.files["/clips.zip"] = zipped({"a.mp4": bytes(70_000_000)})  # 68 kB
    with pytest.raises(UserError, match="more than 67,108,864 bytes"):
        use(Source("clips.zip", (f"{site.url}/clips.zip",), unpack=lambda name: name))
    use(
        Source("clips.zip", (f"{site.url}/clips.zip",), unpack=lambda name: name),
        spec={"disk": 80_000_000},
    )


def test_an_unpacked_tree_counts(site, use, said):
    (RAW / "clips").mkdir(parents=True)
    (RAW / "clips/a.mp4").write_bytes(b"AAA")
    use(clips(site, files=3))
    assert (read_list(), site.asked) == ({"clips/a.mp4": (3, True)}, [])
    assert any("clips.zip: 1 of its files are present, unpacked" in line for line in said)
    assert any(line.startswith("WARNING clips.zip: 1 of 3 files are present") for line in said)
    with pytest.raises(UserError, match="1 of 3 files are present"):
        use(Source("clips.zip", unpack=place, files=3))  # not media: all of it is needed


def test_a_tree_a_folder_too_deep_is_put_right(site, use):
    for name, content in CLIPS.items():
        path = RAW / "downloads" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    use(clips(site))
    assert (read_list(), site.asked) == (WHOLE, [])


def test_an_archive_in_the_raw_folder_is_unpacked_and_stays(site, use, said):
    RAW.mkdir(parents=True)
    (RAW / "clips.zip").write_bytes(site.files["/clips.zip"])
    (RAW / "notes.txt").write_bytes(b"mine")
    use(clips(site))
    assert (read_list(), site.asked) == (WHOLE, [])
    assert (RAW / "clips.zip").is_file()
    assert any(
        line.startswith("WARNING") and " 1 files that this dataset does not use" in line
        for line in said
    )


def test_archives_that_share_a_rule_are_compared_once(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src/clips").mkdir(parents=True)
    (tmp_path / "src/clips/a.mp4").write_bytes(b"AAA")
    read = []
    monkeypatch.setattr(
        raw_folder, "sha256", lambda path: read.append(path) or hashlib.sha256(b"AAA").hexdigest()
    )
    tars = [Source(f"{number}.tar", unpack=place, media=True) for number in range(5)]
    for count in (1, 2):  # ours for download.json; the origin's and ours
        read.clear()
        use(*tars, origin=tmp_path / "src")
        assert len(read) == count


def test_a_damaged_archive_of_the_user_is_not_deleted(site, use, mirror):
    archive = mirror / "Archives/clips.zip"
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(UserError, match="damaged archive"):
        use(clips(site), origin=archive)
    assert archive.is_file()
    with pytest.raises(UserError, match=r"clips\.zip has the md5"):
        use(clips(site, checksum=MD5), origin=archive)
    archive.write_bytes(zipped({"other": b""}))
    with pytest.raises(UserError, match="none of the files that are needed"):
        use(clips(site), origin=archive)
    assert files(RAW) == {}


def test_unpacking_that_was_killed_goes_on_from_the_archive(site, use):
    """With a mark of a begun archive, half the files and the archive, the rest is unpacked."""
    (RAW / "clips").mkdir(parents=True)
    (RAW / "clips/a.mp4").write_bytes(b"AAA")
    (RAW / "clips/.b.mp4.1.part").write_bytes(b"B")
    (RAW / ".done").mkdir()
    (RAW / ".done/clips.zip.json").write_text("{}")
    (RAW / ".fetched").mkdir()
    (RAW / ".fetched/clips.zip").write_bytes(site.files["/clips.zip"])
    use(clips(site))
    assert (read_list(), site.asked) == (WHOLE, [])
    assert set(files(RAW)) == {*WHOLE, "download.json", ".done/clips.zip.json"}


def test_a_half_unpacked_tree_does_not_pass_for_a_whole_one(site, use):
    (RAW / "clips").mkdir(parents=True)
    (RAW / "clips/a.mp4").write_bytes(b"AAA")
    (RAW / ".done").mkdir()
    (RAW / ".done/clips.zip.json").write_text("{}")
    with pytest.raises(UserError, match="only a part of it is unpacked"):
        use(Source("clips.zip", unpack=place, media=True, files=2))
    (RAW / "clips/b.mp4").write_bytes(b"BB")
    use(Source("clips.zip", unpack=place, media=True, files=2))  # placed by hand since
    (RAW / ".done/clips.zip.json").write_text("{}")
    use(clips(site))
    assert (read_list(), len(site.asked)) == (WHOLE, 1)


def test_copying_that_was_killed_goes_on(site, use, mirror):
    (RAW / "clips").mkdir(parents=True)
    (RAW / "clips/a.mp4").write_bytes(b"AAA")
    for others in ((), ("clips/b.mp4", "list.txt")):  # killed in the middle, killed at the very end
        (RAW / ".done").mkdir(exist_ok=True)
        (RAW / ".done/clips.zip.json").write_text("{}")
        use(clips(site), origin=mirror / "Toy")
        assert read_list() == WHOLE
        use(clips(site))
        assert (site.asked, others and set(files(RAW))) == (
            [],
            others and {*WHOLE, "download.json"},
        )
