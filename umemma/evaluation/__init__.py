"""From predictions to numbers: metrics, calibration, the missing-modality grid, information, comparison."""
