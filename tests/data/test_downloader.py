"""A run over the sources: what is in place, what is unavailable, a run that was killed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from toys.archives import files, zipped
from toys.download import LIST, RAW, STEPS, WHOLE, clips, place, read_list
from toys.web import DATA

from umemma.data import raw_folder
from umemma.errors import UserError
from umemma.types import Source

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


def test_addresses_are_asked_in_turn_and_a_second_run_asks_nothing(site, use):
    source = Source(
        "lists/list.txt", (f"{site.url}/gone.txt", f"{site.url}/list.txt"), checksum=LIST
    )
    assert use(source, Source("data.bin", (f"{site.url}/data.bin",), media=True)) == RAW
    assert [path for path, _ in site.asked] == ["/gone.txt", "/list.txt", "/data.bin"]
    assert read_list() == {"data.bin": (len(DATA), True), "lists/list.txt": (4, False)}
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
    assert set(read_list()) == {"list.txt", "x-a.txt", "x-b.txt"}


def test_a_source_of_its_own_decides_what_is_media(site, use):
    use(clips(site), Source("list.txt", steps=STEPS))
    assert read_list() == WHOLE | {"list.txt": (4, False)}


def test_lists_placed_by_hand_do_not_pass_for_the_clips(site, use):
    RAW.mkdir(parents=True)
    (RAW / "list.txt").write_bytes(b"a\nb\n")
    use(clips(site), Source("list.txt", steps=STEPS))
    assert set(read_list()) == set(WHOLE)


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
    assert read_list() == {"list.txt": (4, False)}
    assert any(
        line.startswith("WARNING") and "differs from the last download" in line for line in said
    )


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
        f"  names.txt: {site.url}/gone.txt: 404 Not Found; "
        "gdrive:ID: needs gdown: pip install 'umemma[gdrive]'",
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
    with pytest.raises(
        UserError, match=r"1,000,000,000\.0 GB of disk space are needed, .* GB are free"
    ):
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


def test_the_raw_folder_that_download_leaves_passes_the_check(site, use):
    use(clips(site), Source("list.txt"))
    raw_folder.check_raw_files(RAW, raw_folder.read_raw_files(RAW, ""), "")
    (RAW / "list.txt").write_bytes(b"b\na\n")
    with pytest.raises(UserError, match="differs from"):
        raw_folder.check_raw_files(RAW, raw_folder.read_raw_files(RAW, ""), "")
