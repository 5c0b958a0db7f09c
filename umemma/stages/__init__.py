"""The stages. Each is one command, one DVC stage, one section of params.yaml and one file.

They exchange data only through files.
"""
