.DEFAULT_GOAL := help
.PHONY: help check format test quick docs bench

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

check: ## lint, formatting, types, layers
	ruff check .
	ruff format --check .
	mypy
	lint-imports

format: ## format and mend what can be mended
	ruff format .
	ruff check --fix .

test: ## all tests
	pytest

quick: ## the tests that neither start Ray nor train a network
	pytest -m 'not ray and not slow'

docs: ## build the documentation into site/; mkdocs serve shows it while you write
	mkdocs build --quiet

NEED_FILES := $(addprefix benchmarks/,bitfusion_fit.py compare_samplers.py deploy.py fuzz_inputs.py joint_vs_staged.py joint_where_it_pays.py ofa_search.py predictors_imagenet.py \
	profile_latency.py rank_agreement.py refined.py)

bench: ## every benchmark that needs no published files; each prints its figures and says what it answers
	for script in $(filter-out $(NEED_FILES),$(wildcard benchmarks/*.py)); do echo "== $$script"; python $$script || exit 1; done
