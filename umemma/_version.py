"""The version, where everything may import it without importing the package's face."""

__version__ = "0.2.0.dev0"
