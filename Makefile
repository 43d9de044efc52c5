# Everything here runs in .venv, which is made on the first call and completed whenever setup.py changes.
#   PYTHON=python3.12       the Python to make it with (3.10 or newer)
#   ARGS="..."              more arguments for the quickstarts, test and test-slow
#   DATA=...                the folder of quickstart-real, with train.json, val.json and images/
#   PIP_ARGS="..."          more arguments for every `pip install` (of uv where it is there), such as --index-url
#   DETECTRON2_SOURCE=...   a folder or git URL to install detectron2 from

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SETUP := setup.py detr_d2/installation/bootstrap.py detr_d2/installation/install_detectron2.py
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev

export PIP_ARGS DETECTRON2_SOURCE

.PHONY: help quickstart quickstart-real quickstart-segmentation test test-slow check format setup clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | while IFS='|' read -r name text; do printf '%-32s%s\n' "$$name" "$$text"; done

quickstart: $(READY) ## train DETR and Faster R-CNN on shapes and compare them on one page (about 15 minutes on two CPU cores)
	@$(RUN) -m detr_d2 quickstart $(ARGS)

quickstart-real: $(READY) ## train Deformable DETR and Faster R-CNN on real images (DATA=path/to/bccd) and compare them on one page
	@$(RUN) -m detr_d2 quickstart real --data "$(DATA)" $(ARGS)

quickstart-segmentation: $(READY) ## train masks and panoptic segmentation on the models of a finished quickstart (28 minutes on one core)
	@$(RUN) -m detr_d2 quickstart segmentation $(ARGS)

test: $(READY_DEV) ## run the tests: all of them in two processes, those of ARGS in one, which shows what they print
	@$(RUN) -m pytest $(or $(ARGS),-n 2 --dist loadscope)

test-slow: $(READY_DEV) ## run the tests that take minutes
	@$(RUN) -m pytest -m slow $(ARGS)

check: $(READY_DEV) ## lint, check the format and the types
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

format: $(READY_DEV) ## format the code and apply the linter's safe fixes
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

setup: $(READY_DEV) ## only make .venv

clean: ## remove caches and builds; keeps .venv
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	@find detr_d2 tests -type d -name __pycache__ -prune -exec rm -rf {} +

define python_3_10
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "error: there is no $(PYTHON): run \`apt-get install python3 python3-venv python3-pip\` as root, or name another Python with \`make PYTHON=...\`." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $$($(PYTHON) --version 2>&1) is too old, Python 3.10 or newer is needed: name one with \`make PYTHON=python3.11 ...\`." >&2; exit 2; }
endef

$(READY): $(SETUP)
	$(python_3_10)
	@$(PYTHON) detr_d2/installation/bootstrap.py --extra report
	@touch $(READY)

$(READY_DEV): $(SETUP)
	$(python_3_10)
	@$(PYTHON) detr_d2/installation/bootstrap.py --extra dev
	@touch $(READY) $(READY_DEV)
