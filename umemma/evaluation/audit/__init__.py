"""The answers of anybody's model: a table of them, what it has to have, and how it is filled."""
