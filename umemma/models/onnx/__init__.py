"""ONNX: a trained model in files that need neither umemma nor PyTorch."""
