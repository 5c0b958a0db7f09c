"""Pages, tables and figures about an evaluation, a comparison or a dataset."""
