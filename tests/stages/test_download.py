"""The download stage on toy data sets: a server on this machine, folders, files placed by hand, runs that were killed."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from loguru import logger
from toys.archives import files, tarred, zipped
from toys.web import DATA, KAGGLEHUB, MD5, Site, serving, toy

from umemma import datasets
from umemma.data import raw_folder
from umemma.errors import UserError
from umemma.stages import download
from umemma.types import DatasetSpec, Plain, Source

RAW = Path("data/raw/toy")
CLIPS = {
    "Toy/clips/a.mp4": b"AAA",
    "Toy/clips/b.mp4": b"BB",
    "Toy/list.txt": b"a\nb\n",
    "Toy/readme": b"?",
}
LIST = "md5:" + hashlib.md5(b"a\nb\n").hexdigest()
STEPS = "Get clips.zip from its makers and put it into data/raw/toy/."


class Options(Plain):
    only: str = ""


def place(member: str) -> str | None:
    found = re.fullmatch(r"(?:Toy/)?(clips/\w+\.mp4|list\.txt)", member)
    return found[1] if found else None


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving({"/list.txt": b"a\nb\n", "/clips.zip": zipped(CLIPS), "/data.bin": DATA}) as site:
        yield site


@pytest.fixture
def said():
    """The log lines from the level INFO on."""
    lines: list[str] = []
    sink = logger.add(
        lambda line: lines.append(str(line)), format="{level} {message}", level="INFO"
    )
    yield lines
    logger.remove(sink)


@pytest.fixture
def use(monkeypatch):
    """Make these sources, or a function that yields them, the data set "toy"; then a run of it."""

    def run(*sources, origin="", spec=None, **options):
        module = types.ModuleType("toy_dataset")
        about = {
            "summary": "",
            "modalities": ("video",),
            "classes": ("a", "b"),
            "licence": "CC0",
            "citation": "Toy",
        }
        module.SPEC = DatasetSpec(name="toy", **about, **(spec or {}))
        module.Options = Options
        module.sources = (
            sources[0] if callable(sources[0]) else lambda folder, options: iter(sources)
        )
        monkeypatch.setitem(sys.modules, "toy_dataset", module)
        monkeypatch.setitem(datasets.NAMES, "toy", "toy_dataset")
        return download.run("toy", options, str(origin))

    return run


def clips(site: Site, **more) -> Source:
    return Source(
        "clips.zip", (f"{site.url}/clips.zip",), unpack=place, media=True, steps=STEPS, **more
    )


def listed() -> dict[str, tuple[int, bool]]:
    about = json.loads((RAW / "download.json").read_text())
    for name, file in about["files"].items():
        assert file["sha256"] == hashlib.sha256((RAW / name).read_bytes()).hexdigest()
    return {name: (file["size"], file["media"]) for name, file in about["files"].items()}


WHOLE = {"clips/a.mp4": (3, True), "clips/b.mp4": (2, True), "list.txt": (4, True)}


# The default data set. ------------------------------------------------------------------------------------------------


def test_digits_are_made_and_mended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = download.run("digits", {})
    assert folder == Path("data/raw/digits")
    first = files(folder)
    assert set(first) == {"images.parquet", "speech.parquet", "download.json"}
    about = json.loads(first["download.json"])
    assert set(about) == {"dataset", "licence", "citation", "files"}
    assert about["files"]["images.parquet"] == {
        "sha256": hashlib.sha256(first["images.parquet"]).hexdigest(),
        "size": len(first["images.parquet"]),
        "media": False,
    }
    before = (folder / "download.json").stat()
    download.run("digits", {})
    assert (folder / "download.json").stat().st_ino == before.st_ino  # not written again
    (folder / "images.parquet").write_bytes(first["images.parquet"][:-1])
    (folder / "speech.parquet").unlink()
    download.run("digits", {})
    assert files(folder) == first


def test_settings_that_the_data_set_does_not_know(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"preprocess\.options\.snr") as error:
        download.run("digits", {"snr": 1})
    assert error.value.exit_status == 2
    assert not Path("data").exists()


# From addresses. ------------------------------------------------------------------------------------------------------


def test_addresses_are_asked_in_turn_and_a_second_run_asks_nothing(site, use):
    source = Source(
        "lists/list.txt", (f"{site.url}/gone.txt", f"{site.url}/list.txt"), checksum=LIST
    )
    assert use(source, Source("data.bin", (f"{site.url}/data.bin",), media=True)) == RAW
    assert [path for path, _ in site.asked] == ["/gone.txt", "/list.txt", "/data.bin"]
    assert listed() == {"data.bin": (len(DATA), True), "lists/list.txt": (4, False)}
    before = {path: path.stat() for path in RAW.rglob("*")}
    use(source, Source("data.bin", (f"{site.url}/data.bin",), media=True))
    assert len(site.asked) == 3
    assert {path: path.stat() for path in RAW.rglob("*")} == before


def test_a_later_source_follows_from_an_earlier_one(site, use):
    def sources(folder, options):
        yield Source("list.txt", (f"{site.url}/list.txt",))
        for name in (folder / "list.txt").read_text().split():
            yield Source(f"{options.only}{name}.txt", (f"{site.url}/list.txt",))

    use(sources, only="x-")
    assert set(listed()) == {"list.txt", "x-a.txt", "x-b.txt"}


def test_an_archive_is_unpacked_and_not_kept(site, use, said):
    use(clips(site, files=3))
    assert listed() == WHOLE
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
        assert listed() == WHOLE
    assert len(site.asked) == 3
    (RAW / "clips/a.mp4").unlink()
    site.files = {}
    use(clips(site))  # lost clips are usual
    assert set(listed()) == {"clips/b.mp4", "list.txt"}
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
    assert (set(listed()), len(site.asked)) == ({"clips/a.mp4"}, 1)
    use(sources, only="b")
    assert (set(listed()), len(site.asked)) == ({"clips/b.mp4"}, 2)


def test_archives_with_one_rule_are_told_apart_by_what_they_held(site, use):
    """Files of the first one don't pass for an unpacked copy of the second."""
    site.files |= {"/1.tar": tarred({"clips/a.mp4": b"1"}), "/2.tar": tarred({"clips/b.mp4": b"2"})}
    one, two = (
        Source(name, (f"{site.url}/{name}",), unpack=place, media=True)
        for name in ("1.tar", "2.tar")
    )
    use(one, two)
    assert set(listed()) == {"clips/a.mp4", "clips/b.mp4"}
    (RAW / ".done/1.tar.json").unlink()
    (RAW / "clips/a.mp4").unlink()
    use(one, two)
    assert (set(listed()), len(site.asked)) == ({"clips/a.mp4", "clips/b.mp4"}, 3)


def test_a_source_of_its_own_decides_what_is_media(site, use):
    use(clips(site), Source("list.txt", steps=STEPS))
    assert listed() == WHOLE | {"list.txt": (4, False)}


def test_lists_placed_by_hand_do_not_pass_for_the_clips(site, use):
    RAW.mkdir(parents=True)
    (RAW / "list.txt").write_bytes(b"a\nb\n")
    use(clips(site), Source("list.txt", steps=STEPS))
    assert set(listed()) == set(WHOLE)


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
    assert listed() == WHOLE


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
    assert set(listed()) == {"clips/a.mp4", "list.txt"}


# Placed by hand. ------------------------------------------------------------------------------------------------------


def test_an_unpacked_tree_counts(site, use, said):
    (RAW / "clips").mkdir(parents=True)
    (RAW / "clips/a.mp4").write_bytes(b"AAA")
    use(clips(site, files=3))
    assert (listed(), site.asked) == ({"clips/a.mp4": (3, True)}, [])
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
    assert (listed(), site.asked) == (WHOLE, [])


def test_an_archive_in_the_raw_folder_is_unpacked_and_stays(site, use, said):
    RAW.mkdir(parents=True)
    (RAW / "clips.zip").write_bytes(site.files["/clips.zip"])
    (RAW / "notes.txt").write_bytes(b"mine")
    use(clips(site))
    assert (listed(), site.asked) == (WHOLE, [])
    assert (RAW / "clips.zip").is_file()
    assert any(
        line.startswith("WARNING") and " 1 files that this dataset does not use" in line
        for line in said
    )


def test_a_wrong_file_is_replaced_or_named(site, use, said):
    RAW.mkdir(parents=True)
    (RAW / "list.txt").write_bytes(b"wrong")
    use(Source("list.txt", (f"{site.url}/list.txt",), checksum=LIST))
    assert (RAW / "list.txt").read_bytes() == b"a\nb\n"
    assert any("list.txt replaced from http" in line for line in said)
    (RAW / "list.txt").write_bytes(b"wrong")
    with pytest.raises(UserError, match=r"list\.txt: the present file has the md5"):
        use(Source("list.txt", checksum=LIST))


def test_a_file_that_changed_since_is_fetched_again_or_used_as_it_is(site, use, said):
    use(Source("list.txt", (f"{site.url}/list.txt",)))
    (RAW / "list.txt").write_bytes(b"mine")
    use(Source("list.txt", (f"{site.url}/list.txt",)))
    assert (RAW / "list.txt").read_bytes() == b"a\nb\n"
    (RAW / "list.txt").write_bytes(b"mine")
    use(Source("list.txt"))
    assert (RAW / "list.txt").read_bytes() == b"mine"
    assert listed() == {"list.txt": (4, False)}
    assert any(
        line.startswith("WARNING") and "differs from the last download" in line for line in said
    )


# --from ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mirror(site, tmp_path) -> Path:
    """Toy/ unpacked, and Archives/ with the archive."""
    for name, content in CLIPS.items():
        path = tmp_path / "mirror" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "mirror/Archives").mkdir()
    (tmp_path / "mirror/Archives/clips.zip").write_bytes(site.files["/clips.zip"])
    return tmp_path / "mirror"


@pytest.mark.parametrize("origin", ["", "Toy", "Archives", "Archives/clips.zip"])
def test_from_a_folder_or_an_archive(site, use, mirror, origin):
    before = files(mirror)
    use(clips(site), origin=mirror / origin)
    assert (listed(), site.asked) == (WHOLE, [])
    assert files(mirror) == before
    assert not list(RAW.rglob(".*.part"))
    before = {path: path.stat() for path in RAW.rglob("*") if path.is_file()}
    use(clips(site), origin=mirror / origin)
    assert listed() == WHOLE
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
    assert listed() == WHOLE | {"list.txt": (6, False)}
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
    """The project's folder as --from has the raw folder in it; src/ has an older copy that comes first by its name."""
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
    assert listed() == WHOLE


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
    assert set(listed()) == {"clips/a.mp4", "clips/b.mp4"}


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
            UserError, match=r"these files are unavailable:\n  test/0\.tar: .*neither the archive nor a file"
        ):
            use(train, test, origin=tmp_path / origin)
    (tmp_path / "mirror/test").mkdir()
    (tmp_path / "mirror/test/0.tar").write_bytes(tarred({"clips/b.mp4": b"2"}))
    use(train, test, origin=tmp_path / "mirror")
    assert set(listed()) == {"clips/a.mp4", "clips/b.mp4"}


def test_from_an_address(site, use):
    use(Source("lists/list.txt", ("https://nowhere.invalid/",)), clips(site), origin=f"{site.url}/")
    assert [path for path, _ in site.asked] == ["/lists/list.txt", "/list.txt", "/clips.zip"]
    assert set(listed()) == {"lists/list.txt", *WHOLE}


def test_what_is_not_in_from_is_not_fetched_elsewhere(site, use, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        use(Source("list.txt", (f"{site.url}/list.txt",)), clips(site), origin=tmp_path / "empty")
    assert "list.txt: " in error.value.what
    assert "clips.zip: " in error.value.what
    assert site.asked == []
    (RAW / "list.txt").write_bytes(b"a\nb\n")
    (RAW / "clips").mkdir()
    (RAW / "clips/a.mp4").write_bytes(b"AAA")
    use(Source("list.txt"), clips(site), origin=tmp_path / "empty")  # what is in place serves


def test_from_nowhere_is_a_wrong_command_line(use, tmp_path):
    with pytest.raises(UserError, match="no such file or folder") as error:
        use(Source("list.txt"), origin=tmp_path / "nowhere")
    assert error.value.exit_status == 2


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


# What needs the user. -------------------------------------------------------------------------------------------------


def test_what_can_not_be_had_is_listed_with_the_steps(site, use):
    def sources(folder, options):
        yield Source("names.txt", (f"{site.url}/gone.txt", "gdrive:ID"), steps="Ask the makers.")
        yield Source("list.txt")  # the archive has it
        yield clips(site)
        yield Source("other.txt", steps="Ask the makers.")
        yield Source((folder / "names.txt").read_text())

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "gdown", None)
        with pytest.raises(UserError) as error:
            use(sources)
    assert (error.value.where, error.value.exit_status) == (str(RAW), 1)
    assert error.value.what.splitlines() == [
        "these files are unavailable:",
        f"  names.txt: {site.url}/gone.txt: 404 Not Found; gdrive:ID: needs gdown: pip install 'umemma[gdrive]'",
        "  other.txt: no address is known",
    ]
    assert error.value.hint == "Ask the makers.\nThen run again: umemma download toy"
    assert (RAW / "clips/a.mp4").is_file()  # the rest was fetched all the same
    assert not (RAW / "download.json").exists()


def test_a_long_list_is_cut(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        use(*(Source(f"{i}.txt") for i in range(1234)))
    assert error.value.what.splitlines()[-2:] == [
        "  9.txt: no address is known",
        "  and 1,224 more",
    ]


def test_media_of_which_nothing_is_there(site, use):
    with pytest.raises(UserError, match=r"clips\.zip: no address is known"):
        use(Source("clips.zip", unpack=place, media=True))
    site.files["/clips.zip"] = zipped({"Toy/readme": b"?"})
    with pytest.raises(UserError, match=r"clips\.zip: only lists of it are present"):
        use(clips(site), Source("data.bin", (f"{site.url}/data.bin",)))


def test_a_disk_that_is_too_small(site, use):
    with pytest.raises(UserError, match=r"1,000,000,000\.0 GB of disk space are needed, .* GB are free"):
        use(clips(site), spec={"disk": 10**18})
    assert site.asked == []
    with pytest.raises(UserError, match="of disk space are needed"):
        use(Source("data.bin", (f"{site.url}/data.bin",), size=10**18))
    (RAW / "clips").mkdir()
    (RAW / "clips/a.mp4").write_bytes(b"AAA")
    use(
        clips(site),
        Source("data.bin", (f"{site.url}/data.bin",), size=len(DATA)),
        spec={"disk": 10**18},
    )  # only a file


def test_the_size_is_said_first(site, use, said):
    use(clips(site), spec={"size": 8_200_000_000, "disk": 17_000})
    assert re.match(
        r"INFO toy: 8\.2 GB to download, 17 kB on the disk at most; .* free\. Licence: CC0",
        said[0],
    )


def test_a_path_out_of_the_raw_folder_is_refused(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="has to lie in the raw folder"):
        use(Source("../other/list.txt"))


def test_a_disk_that_refuses_is_one_message(site, use):
    RAW.parent.mkdir(parents=True)
    RAW.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot write: File exists") as error:
        use(clips(site))
    assert error.value.where == str(RAW)


# Killed. --------------------------------------------------------------------------------------------------------------

TOY = """
from pathlib import Path
from umemma import datasets
from umemma.types import DatasetSpec, Plain, Source
from umemma.stages import download

class Options(Plain):
    pass

SPEC = DatasetSpec("toy", "", ("video",), ("a",), "", "")

def sources(folder, options):
    yield Source("data.bin", ("URL/data.bin",))

if __name__ == "__main__":
    datasets.NAMES["toy"] = "toy_dataset"
    download.run("toy", {})
"""


def test_a_killed_download_asks_only_for_the_rest(site, tmp_path, use):
    Path("toy_dataset.py").write_text(TOY.replace("URL", site.url))
    site.cuts, site.stall = [60_000], threading.Event()
    process = subprocess.Popen([sys.executable, "toy_dataset.py"], stderr=subprocess.PIPE)
    part = RAW / ".data.bin.part"
    for _ in range(3000):
        if (part.is_file() and part.stat().st_size) or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    there = part.stat().st_size
    assert 0 < there <= 60_000
    assert not (RAW / "data.bin").exists()
    use(Source("data.bin", (f"{site.url}/data.bin",)))
    assert site.asked == [("/data.bin", ""), ("/data.bin", f"bytes={there}-")]
    assert files(RAW).keys() == {"data.bin", "download.json"}
    assert (RAW / "data.bin").read_bytes() == DATA


def test_unpacking_that_was_killed_goes_on_from_the_archive(site, use):
    """Half the files are there, the mark says so, the archive is there: nothing is fetched, the rest is unpacked."""
    (RAW / "clips").mkdir(parents=True)
    (RAW / "clips/a.mp4").write_bytes(b"AAA")
    (RAW / "clips/.b.mp4.1.part").write_bytes(b"B")
    (RAW / ".done").mkdir()
    (RAW / ".done/clips.zip.json").write_text("{}")
    (RAW / ".fetched").mkdir()
    (RAW / ".fetched/clips.zip").write_bytes(site.files["/clips.zip"])
    use(clips(site))
    assert (listed(), site.asked) == (WHOLE, [])
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
    assert (listed(), len(site.asked)) == (WHOLE, 1)


def test_copying_that_was_killed_goes_on(site, use, mirror):
    (RAW / "clips").mkdir(parents=True)
    (RAW / "clips/a.mp4").write_bytes(b"AAA")
    for others in ((), ("clips/b.mp4", "list.txt")):  # killed in the middle, killed at the very end
        (RAW / ".done").mkdir(exist_ok=True)
        (RAW / ".done/clips.zip.json").write_text("{}")
        use(clips(site), origin=mirror / "Toy")
        assert listed() == WHOLE
        use(clips(site))
        assert (site.asked, others and set(files(RAW))) == (
            [],
            others and {*WHOLE, "download.json"},
        )


def test_the_raw_folder_that_download_leaves_passes_the_check(site, use):
    use(clips(site), Source("list.txt"))
    raw_folder.check_raw_files(RAW, raw_folder.read_raw_files(RAW, ""), "")
    (RAW / "list.txt").write_bytes(b"b\na\n")
    with pytest.raises(UserError, match="differs from"):
        raw_folder.check_raw_files(RAW, raw_folder.read_raw_files(RAW, ""), "")
