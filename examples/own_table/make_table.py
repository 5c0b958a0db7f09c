"""Make a small table of your own: pictures of shapes, captions, and the name of the shape.

python make_table.py my-folder
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

CORNERS = {"triangle": 3, "square": 4, "hexagon": 6}
ROWS = 120


def draw_shape(corners: int, chance: random.Random) -> Image.Image:
    """Return a picture with a shape of a random size and angle."""
    picture = Image.new("RGB", (32, 32), "white")
    circle = (16, 16, chance.uniform(8, 14))
    angle = chance.uniform(0, 360)
    ImageDraw.Draw(picture).regular_polygon(circle, corners, angle, fill="navy")
    return picture


def write_caption(corners: int, chance: random.Random) -> str:
    """Return a caption: one in ten is empty, and one in three of the others does not help."""
    if chance.random() < 0.1:
        return ""
    if chance.random() < 1 / 3:
        return "a shape that somebody drew"
    return f"a shape with {corners} corners"


def make_table(folder: Path) -> None:
    """Write the pictures and table.csv. An empty cell is an absent modality."""
    (folder / "photos").mkdir(parents=True)
    chance = random.Random(0)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["photo", "caption", "label"])
        for number in range(ROWS):
            label = chance.choice(list(CORNERS))
            photo = f"photos/{number:03d}.png"
            draw_shape(CORNERS[label], chance).save(folder / photo)
            if chance.random() < 0.1:
                photo = ""
            table.writerow([photo, write_caption(CORNERS[label], chance), label])


if __name__ == "__main__":
    make_table(Path(sys.argv[1]))
