# The targets of M3's how-to: make m3aggregator, then ./bin/m3aggregator -f configs/m3aggregator.yml
SHELL := /bin/bash
COMMANDS := m3aggregator m3coordinator m3ctl
.PHONY: all dist environment test $(COMMANDS)

all: $(COMMANDS)

# The virtual environment and compiled kernels.
environment:
	@. scripts/environment.sh; prepare_environment; prepare_kernels

$(COMMANDS): environment
	@mkdir -p bin && ln -sf ../.venv/bin/$@ bin/$@ && echo bin/$@

# A wheel and an sdist.
dist:
	@. scripts/environment.sh; prepare_environment test; \
	.venv/bin/python -c 'from setuptools import build_meta as b; print(b.build_wheel("dist"), b.build_sdist("dist"))'

test:
	@scripts/test
