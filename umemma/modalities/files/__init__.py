"""How files are read: sound and video, arrays of numbers; and whether a file is whole."""
