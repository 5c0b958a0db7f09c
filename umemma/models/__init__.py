"""The late-fusion model, how it is built and saved, and how it predicts from new media."""
