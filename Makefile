# One command each for what a change needs; see CONTRIBUTING.md.
.PHONY: install lint format test docs tour

install:
	pip install -e '.[test]'

lint:
	ruff check .
	ruff format --check .
	mypy

format:
	ruff check --fix .
	ruff format .

test:
	pytest -n 2

docs:
	sphinx-build -W -b html docs site

tour:
	python .ci/run_notebook.py --write docs/notebooks/tour.ipynb
