"""`umemma encoders` prints the list of encoders and its notes."""

from __future__ import annotations

from umemma.encoders.catalogue import list_encoders
from umemma.stages.inspection import encoders


def test_every_encoder_of_the_list_and_every_note_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows, notes = list_encoders()
    encoders.run()
    text = capsys.readouterr().out
    for row in rows:
        assert row.name in text
    for note in notes:
        assert note.partition(":")[0] in text
