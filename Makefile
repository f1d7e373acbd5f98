# Everything here works from a fresh clone on Debian 12, as root: packages, virtual environment, guests and node make themselves.

python := .venv/bin/python
sources := $(shell find vmbatch scripts etc slurm examples -type f -not -name '*.pyc')
PYTEST_ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.PHONY: demo test test-xen fuzz lint bench man docs deb errors guests lab-up lab-down lab-xen packages clean

demo: .venv/.stamp-product
	@$(python) -m lab demo

test: packages
	@$(MAKE) --no-print-directory -j2 .venv/.stamp-product dist/deb/.stamp
ifeq ($(PYTEST_ARGS),)
	@$(python) -m lab suite
else
	@$(python) -m lab exec -- $(python) -m pytest $(PYTEST_ARGS)
endif

# The Xen part alone, beside the lab's node.
test-xen: .venv/.stamp-product
	@$(python) -m lab.xen build >/dev/null
	@$(python) -m pytest tests/xen $(PYTEST_ARGS)

# What reaches new code is kept in dist/fuzz/TARGET, what fails is dist/fuzz/crash-DIGEST.
FUZZ_TARGETS ?= images disks journal
FUZZ_SECONDS ?= 300
fuzz: .venv/.stamp-product
	@for target in $(FUZZ_TARGETS); do \
		mkdir -p dist/fuzz/$$target && $(python) -m tests.fuzz $$target -max_total_time=$(FUZZ_SECONDS) -timeout=10 \
			-rss_limit_mb=2048 -artifact_prefix=dist/fuzz/ dist/fuzz/$$target || exit; \
	done

bench: .venv/.stamp-product
	@$(python) -m lab exec -- $(python) -m bench

lint: .venv/.stamp-product
	@$(python) -m ruff check .
	@$(python) -m mypy
	@git ls-files -co --exclude-standard -z | xargs -0 awk 'FNR == 1 && /^#!\/bin\/(ba)?sh|^# shellcheck shell=/ { print FILENAME }' \
		| xargs -r shellcheck

guests: .venv/.stamp-product
	@$(python) -m lab guests

lab-up: .venv/.stamp-product
	@$(python) -m lab up

lab-down: .venv/.stamp-product
	@$(python) -m lab down
	@$(python) -m lab.xen down

lab-xen: .venv/.stamp-product
	@$(python) -m lab.xen up

# Man pages from their Markdown.
man ?= dist/man
pages := $(patsubst docs/man/%.md,$(man)/%,$(wildcard docs/man/*.md))
man: packages $(pages)
$(man)/%: docs/man/%.md
	@mkdir -p $(@D)
	@sed 1d $< | lowdown -s -Tman --parse-no-intraemph --out-no-smarty -m shiftheadinglevelby=-1 -m source=VmBatch -m volume=VmBatch \
		-m title=$(basename $*) -m section=$(subst .,,$(suffix $*)) -o $@

# The Debian package, built in a copy: again when something that goes into it changes. It needs what debian/control names, and none
# of the lab's daemons.
packaged := CHANGELOG.md LICENSE Makefile README.md debian docs etc examples pyproject.toml scripts slurm vmbatch
deb: dist/deb/.stamp
	@ls dist/deb/*.deb
dist/deb/.stamp: $(shell find $(packaged) -type f -not -name '*.pyc')
	@rm -rf dist/deb
	@mkdir -p dist/deb/vmbatch
	@cp -a $(packaged) dist/deb/vmbatch
	@find dist/deb -name __pycache__ -prune -exec rm -r {} +
	@cd dist/deb/vmbatch && { dpkg-checkbuilddeps 2>/dev/null || apt-get -y --no-install-recommends build-dep ./ >&2; }
	@echo "  ....  Debian package in dist/deb: a minute" >&2
	@cd dist/deb/vmbatch && dpkg-buildpackage --build=binary --no-sign >../build.log 2>&1 || { cat ../build.log; exit 1; }
	@rm -r dist/deb/vmbatch
	@touch $@

# The documentation as a site in dist/site: docs/, and what is made from the code. To search in it: python3 -m http.server -d dist/site
docs: .venv/.stamp-product
	@NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict --quiet
	@$(python) -m website.check dist/site
	@echo "  dist/site/index.html"

# The pages of all errors, from the catalogue and from where they are raised.
errors: .venv/.stamp-product
	@$(python) -m lab.errorpages

packages:
	@lab/install-packages

# The environment with all that the product and its tests need: again when pyproject.toml changes.
.venv/.stamp-environment: pyproject.toml lab/debian-packages.txt | packages
	@echo "  ....  virtual environment in .venv: half a minute when new" >&2
	@[ -x $(python) ] || /usr/bin/python3 -m venv .venv
	@$(python) lab/requirements.py > .venv/requirements.txt
	@.venv/bin/pip install -qq -r .venv/requirements.txt
	@touch $@

# The product itself, not editable but as a site has it: again when a source changes.
.venv/.stamp-product: .venv/.stamp-environment $(sources)
	@rm -rf build
	@.venv/bin/pip install -qq --no-deps --no-build-isolation --force-reinstall .
	@rm -rf build *.egg-info
	@touch $@

clean:
	@[ ! -x $(python) ] || $(python) -m lab down
	@rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
