"""Tables for the recipes of vectors, series and rows: mfeat, utd-mhad, houses.

    python benchmarks/numeric_tables.py mfeat SOURCE FOLDER [--split-seed 0]
    python benchmarks/numeric_tables.py utd-mhad SOURCE FOLDER
    python benchmarks/numeric_tables.py houses SOURCE FOLDER

SOURCE holds the files as they are published: mfeat-{fac,fou,kar,mor,pix,zer}.csv (UCI multiple
features, with a header and the label last); Inertial/*.mat and Skeleton/*.mat (UTD-MHAD);
HousesInfo.txt and images/ (Ahmed & Moustafa 2016). FOLDER gets the table, and the files that it
names, for `umemma download manifest --from FOLDER --params recipes/<name>.yaml`.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io

VIEWS = ("fac", "fou", "kar", "mor", "pix", "zer")
SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}
HIP = 3  # the joint of UTD-MHAD's skeletons that the others are measured from
TRAIN_SUBJECTS = ("1", "3", "5", "7")
VAL_TRIAL = "4"  # of the subjects of training
ROOMS = ("bathroom", "bedroom", "frontal", "kitchen")


def make_mfeat(source: Path, folder: Path, split_seed: int) -> None:
    """Six lists of numbers per digit; 60 % of each class are train, 15 % val, 25 % test."""
    columns: dict[str, object] = {}
    for view in VIEWS:
        rows = np.loadtxt(source / f"mfeat-{view}.csv", delimiter=",", skiprows=1)
        columns[view] = list(rows[:, :-1])
        labels = rows[:, -1].astype(int)
    split = np.empty(len(labels), object)
    chance = np.random.default_rng(split_seed)
    for label in np.unique(labels):
        rows_of_class = chance.permutation(np.flatnonzero(labels == label))
        start = 0
        for name, share in SHARES.items():
            end = start + round(share * len(rows_of_class))
            split[rows_of_class[start:end]] = name
            start = end
    columns |= {"label": labels.astype(str), "split": split}
    pq.write_table(pa.table(columns), folder / "table.parquet")


def make_utd_mhad(source: Path, folder: Path) -> None:
    """Accelerometer and gyroscope, (T, 6) at 50 Hz, and 20 joints, (T, 60), relative to the hip."""
    rows = []
    for inertial in sorted((source / "Inertial").glob("*.mat")):
        match = re.fullmatch(r"a(\d+)_s(\d+)_t(\d+)_inertial", inertial.stem)
        assert match
        action, subject, trial = match.groups()
        key = inertial.stem.removesuffix("_inertial")
        joints = scipy.io.loadmat(source / "Skeleton" / f"{key}_skeleton.mat")["d_skel"]
        joints = joints - joints[HIP]
        np.save(folder / f"{key}.npy", joints.reshape(-1, joints.shape[2]).T.astype(np.float32))
        shutil.copy(inertial, folder / inertial.name)
        split = "test"
        if subject in TRAIN_SUBJECTS:
            split = "val" if trial == VAL_TRIAL else "train"
        rows.append([key, inertial.name, f"{key}.npy", f"a{int(action):02d}", subject, split])
    write_csv(folder, ["key", "inertial", "skeleton", "label", "subject", "split"], rows)


def make_houses(source: Path, folder: Path) -> None:
    """Five numbers and four photos per house; the price in dollars and its logarithm."""
    lines = (source / "HousesInfo.txt").read_text().split("\n")
    rows = []
    for number, line in enumerate(filter(None, lines), 1):
        bedrooms, bathrooms, area, code, price = line.split()
        photos = [f"{number}_{room}.jpg" for room in ROOMS]
        for photo in photos:
            shutil.copy(source / "images" / photo, folder / photo)
        numbers = [bedrooms, bathrooms, area, code, price, f"{np.log(float(price)):.6f}"]
        rows.append([f"house-{number}", *numbers, *photos])
    header = ["key", "bedrooms", "bathrooms", "area", "zip", "price", "log_price", *ROOMS]
    write_csv(folder, header, rows)


def write_csv(folder: Path, header: list[str], rows: list[list[str]]) -> None:
    with (folder / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=["mfeat", "utd-mhad", "houses"])
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split-seed", type=int, default=0, help="of the splits of mfeat")
    arguments = parser.parse_args()
    source, folder = arguments.source, arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.name == "mfeat":
        make_mfeat(source, folder, arguments.split_seed)
    elif arguments.name == "utd-mhad":
        make_utd_mhad(source, folder)
    else:
        make_houses(source, folder)


if __name__ == "__main__":
    main()
