"""What only `manifest` needs: its options, its folds, and cells that hold numbers."""
