"""The stages that give a model away: its card, and its upload."""
