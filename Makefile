# Short names for the commands of CONTRIBUTING.md. Activate the virtual environment first.
.PHONY: check test fast docs bench

# What decides whether a change lands. It makes virtual environments of its own and takes up to half an hour.
check:
	.ci/run

# All tests, in two processes.
test:
	pytest

# The tests that take no more than a few seconds each, then ruff. Run it while you edit.
fast:
	pytest -m "not slow"
	ruff check
	ruff format --check

# The documentation site, in site/.
docs:
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# The benchmarks that need no data of your own and end within minutes. docs/benchmarks.md lists all of them.
bench:
	python benchmarks/preprocess.py reading
	python benchmarks/training.py epoch
	python benchmarks/evaluation.py grid
	python benchmarks/absence.py seconds
