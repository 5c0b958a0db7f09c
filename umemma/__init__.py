"""umemma: multi-modal classifiers that keep working when a modality is missing (UME-MMA, arXiv 2310.06383)."""

__version__ = "0.1.0"


# What has types is torch, imported only here.
def load(folder, trust=False, device="", broken="absent"):  # type: ignore[no-untyped-def]
    """A trained model that answers from new media: predictor.load."""
    import importlib

    return importlib.import_module(".predictor", __name__).load(folder, trust, device, broken)
