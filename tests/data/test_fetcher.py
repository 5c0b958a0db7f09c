"""Where files come from: addresses, a folder or a file of the user, Kaggle."""

from __future__ import annotations

import os
import time

import pytest
from toys.archives import files, tarred
from toys.download import LIST, RAW, WHOLE, clips, place, read_list
from toys.web import KAGGLEHUB, MD5, serving, toy

from umemma.errors import UserError
from umemma.types import Source


def test_a_data_set_from_kaggle(site, use, tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "owner" / "name"
    (cache / "clips").mkdir(parents=True)
    (cache / "clips/a.mp4").write_bytes(b"AAA")
    (cache / "list.txt").write_bytes(b"a\nb\n")
    toy(monkeypatch, "kagglehub", KAGGLEHUB.replace('"/cache/"', f'"{tmp_path}/cache/"'))
    media = Source(
        "clips",
        ("kaggle:owner/name",),
        unpack=lambda name: name if name.startswith("clips/") else None,
    )
    use(media, Source("list.txt", ("kaggle:owner/private", "kaggle:owner/name")))
    assert set(read_list()) == {"clips/a.mp4", "list.txt"}


@pytest.mark.parametrize("origin", ["", "Toy", "Archives", "Archives/clips.zip"])
def test_from_a_folder_or_an_archive(site, use, mirror, origin):
    before = files(mirror)
    use(clips(site), origin=mirror / origin)
    assert (read_list(), site.asked) == (WHOLE, [])
    assert files(mirror) == before
    assert not list(RAW.rglob(".*.part"))
    before = {path: path.stat() for path in RAW.rglob("*") if path.is_file()}
    use(clips(site), origin=mirror / origin)
    assert read_list() == WHOLE
    assert {
        path: path.stat() for path in RAW.rglob("*") if path.is_file()
    } == before  # nothing is copied twice


def test_what_was_edited_in_the_folder_replaces_ours(site, use, mirror, said):
    table = Source("list.txt", media=False)
    use(table, clips(site), origin=mirror / "Toy")
    for name, content in (
        ("list.txt", b"a\nb\nc\n"),
        ("list.txt", b"a\nb\nd\n"),
        ("clips/a.mp4", b"CCC"),
    ):
        before = {path: path.stat().st_ino for path in RAW.rglob("*") if path.is_file()}
        (mirror / "Toy" / name).write_bytes(content)  # at the same size, but for the first
        said.clear()
        use(table, clips(site), origin=mirror / "Toy")
        assert (RAW / name).read_bytes() == content
        after = {path: path.stat().st_ino for path in RAW.rglob("*") if path.is_file()}
        assert {path for path in after if after[path] != before.get(path)} == {
            RAW / name,
            RAW / "download.json",
        }
        line = f"INFO {RAW / name} replaced from {mirror / 'Toy'}\n"
        if name == "clips/a.mp4":
            line = "INFO clips.zip: 1 files copied, 1 of them in place of others; 2 were present\n"
        assert line in said
    assert read_list() == WHOLE | {"list.txt": (6, False)}
    said.clear()
    use(table, clips(site), origin=mirror / "Toy")
    assert said == []


def test_an_edited_file_is_not_taken_for_one_whose_checksum_is_known(site, use, mirror):
    source = Source("list.txt", checksum=LIST)
    use(source, origin=mirror / "Toy")
    (mirror / "Toy/list.txt").write_bytes(b"mine")
    use(source, origin=mirror / "Toy")
    assert (RAW / "list.txt").read_bytes() == b"a\nb\n"


@pytest.mark.parametrize("origin", [".", "src"])
def test_ours_and_what_lies_deeper_do_not_hide_what_was_edited(use, tmp_path, monkeypatch, origin):
    """--from names the project folder, which holds the raw folder; src/ has an older copy."""
    monkeypatch.chdir(tmp_path)
    sources = Source("list.txt"), Source("clips.zip", unpack=place, media=True)
    for name in ("a-copy/list.txt", "a-copy/clips/a.mp4", "list.txt", "clips/a.mp4"):
        path = tmp_path / origin / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"old")
    for content in (b"old", b"new", b"newer"):
        (tmp_path / origin / "list.txt").write_bytes(content)
        (tmp_path / origin / "clips/a.mp4").write_bytes(content)
        use(*sources, origin=tmp_path / origin)
        assert (RAW / "list.txt").read_bytes() == (RAW / "clips/a.mp4").read_bytes() == content


def test_a_host_that_is_not_there_is_waited_for_once(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving({}) as site:
        pass
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(UserError, match="can't be reached"):
        use(*(Source(f"{i}.txt", (f"{site.url}/{i}.txt",)) for i in range(5)))
    assert waited == [1, 2]


def test_from_an_archive_of_another_name(site, use, mirror):
    (mirror / "Archives/clips.zip").rename(mirror / "Toy (1).zip")
    use(clips(site), origin=mirror / "Toy (1).zip")
    assert read_list() == WHOLE


def test_from_a_folder_never_leaves_it(use, tmp_path, monkeypatch, said):
    """A link of a stranger's folder could name any file, or /dev/zero, which has no end."""
    monkeypatch.chdir(tmp_path)
    inner = tmp_path / "inner"
    (inner / "real").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"s")
    (inner / "real/b.txt").write_bytes(b"b")
    (inner / "a.txt").symlink_to("real/b.txt")
    for name, target in {"s.txt": "../secret", "z.txt": "/dev/zero", "n.txt": "nowhere"}.items():
        (inner / name).symlink_to(target)
    os.mkfifo(inner / "p.txt")
    use(Source("a.txt", media=False), origin=inner)
    assert (RAW / "a.txt").read_bytes() == b"b"
    for name in ("s.txt", "z.txt", "n.txt", "p.txt"):
        with pytest.raises(UserError, match="it does not exist there"):
            use(Source(name, media=False), origin=inner)
        assert not (RAW / name).exists()
        assert f"{inner / name} is left out" in "".join(said)


def test_from_a_folder_whose_own_name_is_part_of_the_archive(site, use, mirror):
    use(
        Source(
            "c.zip",
            unpack=lambda n: (
                n[4:] if n.startswith("Toy/clips/") else n if n.startswith("clips/") else None
            ),
        ),
        origin=mirror / "Toy",
    )
    assert set(read_list()) == {"clips/a.mp4", "clips/b.mp4"}


def test_from_a_folder_takes_the_right_file_of_a_name(site, use, tmp_path):
    for name, content in (
        ("a/list.txt", b"wrong"),
        ("lists/list.txt", b"a\nb\n"),
        ("z/list.txt", b"also wrong"),
    ):
        (tmp_path / "mirror" / name).parent.mkdir(parents=True)
        (tmp_path / "mirror" / name).write_bytes(content)
    use(Source("lists/list.txt"), Source("list.txt", checksum=LIST), origin=tmp_path / "mirror")
    assert files(RAW)["lists/list.txt"] == files(RAW)["list.txt"] == b"a\nb\n"
    with pytest.raises(UserError, match=r"a/list\.txt has the md5 .*; .*lists/list\.txt has"):
        use(Source("list.txt", checksum=MD5), origin=tmp_path / "mirror")


def test_from_a_folder_of_archives_that_share_their_names(site, use, tmp_path):
    """As Kinetics-400's tars do: the one of the other folder doesn't pass for this one."""
    (tmp_path / "mirror/train").mkdir(parents=True)
    (tmp_path / "mirror/train/0.tar").write_bytes(tarred({"clips/a.mp4": b"1"}))
    train, test = (Source(f"{part}/0.tar", unpack=place, media=True) for part in ("train", "test"))
    for origin in ("mirror", "mirror/train", "mirror/train/0.tar"):
        with pytest.raises(
            UserError,
            match=r"these files are unavailable:\n  test/0\.tar: .*neither the archive nor a file",
        ):
            use(train, test, origin=tmp_path / origin)
    (tmp_path / "mirror/test").mkdir()
    (tmp_path / "mirror/test/0.tar").write_bytes(tarred({"clips/b.mp4": b"2"}))
    use(train, test, origin=tmp_path / "mirror")
    assert set(read_list()) == {"clips/a.mp4", "clips/b.mp4"}


def test_from_an_address(site, use):
    use(Source("lists/list.txt", ("https://nowhere.invalid/",)), clips(site), origin=f"{site.url}/")
    assert [path for path, _ in site.asked] == ["/lists/list.txt", "/list.txt", "/clips.zip"]
    assert set(read_list()) == {"lists/list.txt", *WHOLE}


def test_what_is_not_in_from_is_not_fetched_elsewhere(site, use, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/other.txt").write_text("of another dataset")
    with pytest.raises(UserError) as error:
        use(Source("list.txt", (f"{site.url}/list.txt",)), clips(site), origin=tmp_path / "empty")
    assert "list.txt: " in error.value.what
    assert "clips.zip: " in error.value.what
    assert site.asked == []
    (RAW / "list.txt").write_bytes(b"a\nb\n")
    (RAW / "clips").mkdir()
    (RAW / "clips/a.mp4").write_bytes(b"AAA")
    with pytest.raises(UserError, match="no file of this dataset is there"):
        use(Source("list.txt"), clips(site), origin=tmp_path / "empty")
    use(Source("list.txt"), clips(site))  # what is in place serves
