"""umemma: multi-modal classifiers that keep working when a modality is missing (UME-MMA, arXiv 2310.06383)."""

__version__ = "0.1.0"
