"""From predictions to numbers: metrics, calibration, the grid of missing modalities, comparison."""
