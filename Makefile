# deepseek.c.  `make` alone says what it can do.
#
# Every directory NN_name is a chapter: a library of the sources in it and in its rooms (the folders
# one level down, but for tests, exercises, bugs and web), and programs linked with it, the chapters below
# it, and common/. What has a main() is a program of its own, in tests/ every test_*.c. A new chapter
# or room needs no new rule.
#
# Each way of building has a place of its own, so changing between them needs no `make clean`:
#     build/cuda    with nvcc (the default when nvcc is found)      CUDA=1 demands it
#     build/cpu     without                                         CUDA=0
#     build/san     address and undefined-behaviour sanitizers      SAN=1   (with CUDA=1: san-cuda)
#     build/cuda-racecheck   for compute-sanitizer (tools/racecheck.sh)      RACECHECK=1
# NN_name/demo and NN_name/bench are links to the programs built last.
#
# MPI=0 builds without MPI, whether it is there or not; MPI=1 demands it.
#
# More variables: CH=NN_name, HINT=1, CSV=FILE, CHECK=1, ARGS= (for a program that is run), V=1 (show commands),
# ARCHS="75 86", MARCH=native, WERROR= (warnings do not stop), SETUP=0 (never call apt).

MAKEFLAGS += --no-builtin-rules --no-print-directory
SHELL := bash
.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := help

# One job for each core, unless -j is on the command line or in MAKEFLAGS (as it is below another
# make). MAKEFLAGS does not show -j while this file is read, so we look at what make was called
# with.
ifeq ($(shell { tr '\0' '\n' </proc/$$PPID/cmdline; echo "$$MAKEFLAGS"; } 2>/dev/null | grep -E -e '(^| )(-[a-zA-Z]*j|--job)'),)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 2)
endif

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-5s %s\n' '$(1)' '$(2)')

# ---- which build ----

# `make demo` is somebody's first command: without a GPU it does not wait for nvcc. (The devices are
# those of Linux and of WSL.)
ifeq ($(MAKECMDGOALS)$(wildcard /dev/nvidia0 /dev/dxg),demo)
CUDA ?= 0
endif
CUDA_BIN := $(wildcard $(CUDA_HOME)/bin/nvcc /usr/local/cuda/bin/nvcc)
ifneq ($(CUDA),0)
ifneq ($(if $(SAN),$(CUDA),1),)
NVCC := $(firstword $(shell command -v nvcc) $(CUDA_BIN))
endif
endif
ifeq ($(CUDA)$(NVCC),1)
$(error CUDA=1, but there is no nvcc in PATH, in $$CUDA_HOME/bin or in /usr/local/cuda/bin. Install the CUDA toolkit, or build with CUDA=0)
endif
B := build/$(if $(SAN),$(if $(NVCC),san-cuda,san),$(if $(NVCC),cuda,cpu))$(if $(RACECHECK),-racecheck)

# ---- flags ----

CC      := gcc
CXX     := g++
MARCH   ?= native
WERROR  ?= -Werror
, := ,
SANFLAGS := $(if $(SAN),-fsanitize=address$(,)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)

# -fno-math-errno and -fno-trapping-math let gcc vectorise loops with sqrtf and comparisons, and
# change no result. snprintf() is how we cut texts to size, so truncation is no warning.
CFLAGS  := -std=gnu11 -I. -O$(if $(SAN),1,3) -g -march=$(MARCH) -fno-math-errno \
           -fno-trapping-math -fopenmp -Wall -Wextra -Wno-format-truncation $(WERROR) $(if $(NVCC),-DWITH_CUDA) $(SANFLAGS)
LDFLAGS := -fopenmp -Wl$(,)--as-needed $(SANFLAGS)

# pkg-config is asked when the first program is linked, that is after the set-up has installed it.
ask      = $(shell pkg-config $(1) $(2) 2>/dev/null || echo $(3))
BLAS_LIB = $(eval BLAS_LIB := $(call ask,--libs,openblas,-lopenblas))$(BLAS_LIB)
BLAS_INC = $(eval BLAS_INC := $(call ask,--cflags,openblas))$(BLAS_INC)
# The directory of the OpenMP build of OpenBLAS goes into the program, so that a pthreads build
# beside it is not taken.
BLAS_DIR = $(patsubst -L%,-Wl$(,)-rpath$(,)%,$(filter -L%,$(BLAS_LIB)))
LIBS     = $(BLAS_LIB) $(BLAS_DIR) -lcjson -lonig -lm

# Open MPI's header. Its library, and NCCL's, are loaded by a program that finds itself one of
# several (common/comm), so alone it needs neither.
ifneq ($(MPI),0)
MPI_INC := $(shell pkg-config --cflags ompi-c 2>/dev/null)
ifeq ($(MPI)$(MPI_INC),1)
$(error MPI=1, but pkg-config finds no ompi-c. `make mpi` installs Open MPI, or build with MPI=0)
endif
endif
$(B)/common/comm/comm_mpi.o: CFLAGS += $(if $(MPI_INC),-DWITH_MPI $(MPI_INC))
$(B)/common/comm/comm_mpi.o: $(B)/flags-mpi

ifneq ($(NVCC),)
# sm_75 and up: machine code for Turing, Ampere (runs on Ada too) and Hopper, and PTX for what
# comes later. Files named *_hopper.cu use instructions that only sm_90a has and are compiled for
# it alone; whoever calls them asks first.
ARCHS    ?= 75 80 90+ptx
HOPPER   := 90a
# Each test is linked with the kernels of its chapter and all below it, for three architectures, so
# their machine code is packed as small as nvcc can (since 12.8): an eighth, for a sixth more time.
PACKED   := $(if $(shell $(NVCC) --help | grep -e --compress-mode),--compress-mode=size)
gencode   = $(foreach a,$(1),-gencode arch=compute_$(a:+ptx=)$(,)code=$(if $(filter %+ptx,$a),[sm_$(a:+ptx=)$(,)compute_$(a:+ptx=)],sm_$a))
NVFLAGS  := -std=c++17 -I. -O3 -lineinfo $(PACKED) -DWITH_CUDA $(if $(RACECHECK),-DRACECHECK) -diag-suppress 177 \
            $(if $(WERROR),-Werror all-warnings) -Xcompiler -Wall$(,)-Wno-format-truncation$(,)-fopenmp \
            $(if $(SAN),-Xcompiler -fsanitize=address -Xcompiler -fsanitize=undefined)
CUDA_LIB_DIR := $(firstword $(wildcard $(dir $(NVCC))../lib64 $(dir $(NVCC))../lib) )
LIBS     += $(addprefix -L,$(CUDA_LIB_DIR)) $(addprefix -Wl$(,)-rpath$(,),$(abspath $(CUDA_LIB_DIR))) \
            -lcublasLt -lcublas -lcudart_static -lstdc++ -ldl -lrt -lpthread
endif

# ---- what there is to build ----

CHAPTERS := $(sort $(patsubst %/,%,$(wildcard [0-9][0-9]_*/)))
PARTS    := common $(CHAPTERS)
# CH=02 means 02_causal.
override CH := $(foreach c,$(CH),$(or $(filter $c_%,$(CHAPTERS)),$c))
# A part's sources: its own and its rooms'. What has a main() is a program: demo.c, bench.c, ...
no_room   = tests exercises bugs figures goldens web
in_rooms  = $(wildcard $(1)/*.$(2) $(1)/*/cuda/*.$(2)) $(filter-out $(no_room:%=$(1)/%/%),$(wildcard $(1)/*/*.$(2)))
MAINS    := $(shell grep -l '^int main\>' $(foreach p,$(PARTS),$(call in_rooms,$p,c)) /dev/null)

object    = $(patsubst %.cu,$(B)/%.cu.o,$(patsubst %.c,$(B)/%.o,$(1)))
# testing.c is for the tests only (it needs Criterion); *_none.c stands in for what nvcc would build.
sources   = $(filter-out %/testing.c $(MAINS) $(if $(NVCC),%_none.c),$(call in_rooms,$(1),c)) \
            $(if $(NVCC),$(call in_rooms,$(1),cu))
library   = $(B)/$(1)/lib$(1).a

$(foreach p,$(PARTS),$(eval OBJECTS_$p := $(call object,$(call sources,$p))))
$(foreach p,$(PARTS),$(eval PROGRAMS_$p := $(patsubst %.c,%,$(filter $p/%,$(MAINS)))))
$(foreach p,$(PARTS),$(eval TESTS_$p := $(patsubst $p/tests/%.c,$(B)/tests/$p/%,$(wildcard $p/tests/test_*.c))))
# UPTO_c: the chapter's library and those of the chapters below it, highest first: the order in
# which the linker needs them.
SEEN :=
$(foreach c,$(CHAPTERS),$(eval SEEN := $(call library,$c) $(SEEN))$(eval UPTO_$c := $(SEEN)))
PROGRAMS := $(foreach p,$(PARTS),$(PROGRAMS_$p))
TESTS    := $(foreach p,$(PARTS),$(TESTS_$p))

# A file that changes only when its text does: what depends on it is built again when the flags or
# the list of files change.
unchanged = $(and $(wildcard $(1)),$(if $(subst <$(strip $(2))>,,<$(strip $(file <$(1)))>),,yes))
remember  = $(if $(unchanged),,$(shell mkdir -p $(dir $(1)))$(file >$(1),$(2)))
ifneq ($(filter-out help clean doctor format lesson-sync deps-check mpi,$(MAKECMDGOALS)),)
$(call remember,$(B)/flags-c,$(CC) $(CFLAGS))
$(call remember,$(B)/flags-mpi,$(MPI_INC))
$(if $(NVCC),$(call remember,$(B)/flags-cu,$(NVCC) $(NVFLAGS) $(ARCHS)))
$(foreach p,$(PARTS),$(call remember,$(B)/$p/objects,$(OBJECTS_$p)))
endif

# ---- rules ----

# What the set-up must find: the tests need Criterion, the demo a text.
goal    = $(filter $(1),$(MAKECMDGOALS))
PURPOSE := $(if $(call goal,test test-% learn grade solutions bugs),test,$(if $(call goal,demo corpus),demo,$(or $(call goal,book),build)))
.PHONY: setup
setup:
	$(if $(filter 0,$(SETUP)),@:,@tools/setup.sh $(PURPOSE))

$(B)/%.o: %.c $(B)/flags-c | setup
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $(BLAS_INC) -MMD -MP -c $< -o $@

$(B)/%.cu.o: %.cu $(B)/flags-cu | setup
	$(call say,NVCC,$<)
	@mkdir -p $(@D)
	$(Q)$(NVCC) $(NVFLAGS) $(call gencode,$(if $(filter %_hopper.cu,$<),$(HOPPER),$(ARCHS))) \
	    -MMD -MP -MF $(@:.o=.d) -c $< -o $@

-include $(foreach p,$(PARTS),$(wildcard $(B)/$p/*.d $(B)/$p/*/*.d))

# blas.o is named by itself: it runs before main(), and nobody calls it.
BLAS    := $(B)/common/core/blas.o
TESTING := $(B)/common/program/testing.o
below    = $(UPTO_$(1)) $(call library,common)
define part_rules
$(call library,$(1)): $(OBJECTS_$(1)) $(B)/$(1)/objects
	@rm -f $$@ && ar rcs $$@ $(OBJECTS_$(1))
$(PROGRAMS_$(1):%=$(B)/%): $(B)/%: $(B)/%.o $(below)
	$$(call say,LINK,$$@)
	$$(Q)$$(CC) $$(LDFLAGS) $$< $(BLAS) $(below) $$(LIBS) -o $$@
$(TESTS_$(1)): $(B)/tests/$(1)/%: $(B)/$(1)/tests/%.o $(TESTING) $(below)
	$$(call say,LINK,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(LDFLAGS) $$< $(TESTING) $(BLAS) $(below) \
	    -lcriterion $$(LIBS) -o $$@
endef
$(foreach p,$(PARTS),$(eval $(call part_rules,$p)))

# test_NAME.c and test_NAME_*.c run the program NAME of their part, so it is built before them.
part_of  = $(firstword $(subst /, ,$(1)))
tests_of = $(B)/tests/$(part_of)/test_$(notdir $(1))
run_by   = $(filter $(tests_of) $(tests_of)_%,$(TESTS))
$(foreach p,$(PROGRAMS),$(if $(call run_by,$p),$(eval $(call run_by,$p): | $(B)/$p)))

# What the demo recommends is run as it is printed.
$(B)/tests/10_full_model/test_demo: | $(B)/10_full_model/deepseek

# The link is renewed each time, for the build asked for may be another one than last time's.
.PHONY: FORCE
up = $(if $(word 3,$(subst /, ,$(1))),../../,../)
$(PROGRAMS): %: $(B)/% FORCE
	@[ "$$(readlink $@)" = $(call up,$@)$< ] || ln -sfn $(call up,$@)$< $@

define chapter_targets
.PHONY: $(1) test-$(1) bench-$(1)
$(1): $(PROGRAMS_$(1))
test-$(1): $(TESTS_$(1))
	@tools/run_tests.py $$^
bench-$(1): $(1)/bench
	./$(1)/bench $$(ARGS)
endef
$(foreach p,$(PARTS),$(eval $(call chapter_targets,$p)))

# ---- targets ----

.PHONY: build-info
.PHONY: help all demo test bench figures book corpus learn grade solutions bugs lesson-sync deps-check format doctor mpi clean

help: ## this list
	@echo 'deepseek.c: DeepSeek from scratch, in C. Targets:'
	@sed -n 's/^\([a-z-]*\):[^#]*## */  make \1@/p' Makefile | column -t -s@
	@printf '  make %s\n' 'NN_name          one chapter:  make 01_self_attention && ./01_self_attention/demo' \
	  'test-NN_name     its tests (and test-common)' 'bench-NN_name    its benchmark'
	@echo 'Chapters: $(CHAPTERS)'
	@echo 'Variables: CUDA=0|1 (default: 1 if nvcc is found), SAN=1 (sanitizers), CH=NN_name or NN (learn, grade: NN.M, too), CHECK=1, ARGS=, V=1 (show commands)'

all: $(PROGRAMS) $(TESTS) ## build every chapter's programs and tests

# deepseek, too: the demo recommends it.
demo: 10_full_model/demo 10_full_model/deepseek corpus ## train a small model on the Bible and let it write (under three minutes)
	./10_full_model/demo $(ARGS)

corpus: build/corpus/bible.txt ## the text that the demos train on
build/corpus/bible.txt: tools/text.sh | setup
	@tools/text.sh $@

test: $(TESTS) ## build and run all tests
	@tools/run_tests.py $^

bench: $(addprefix bench-,$(filter $(CH),$(PARTS))) ## a chapter's benchmark: make bench CH=02_causal
	$(if $^,@:,@echo 'Which chapter?  make bench CH=NN_name, one of: $(CHAPTERS)'; exit 2)

figures: | setup ## draw every chapter's charts again from their CSV files
	@tools/figures.sh $(CH)

book: | setup ## the lessons as a site, build/book/index.html, in which the chapters' own code runs
	@tools/book/book.py $(ARGS)

learn: ## walk through the exercises, up to the first that is not solved yet (CH=02.3 HINT=1: a hint)
	+@tools/learn.py learn $(CH) $(if $(HINT),--hint $(HINT))
grade: ## points for the exercises of a chapter: make grade CH=02 (CSV=FILE: into a table, too)
	+@tools/learn.py grade $(CH) $(if $(CSV),--csv $(CSV))
solutions: ## for authors: every exercise's stub compiles and fails, every solution passes
	+@tools/learn.py solutions $(CH)
bugs: ## plant every known mistake in a copy of the tree: a test must find it (REMEMBER=1: note which)
	+@tools/bugs.py $(if $(REMEMBER),--remember) $(CH)

# For tools that compile and link by themselves (tools/build.py).
build-info: | setup
	$(foreach v,B CC CFLAGS LDFLAGS LIBS NVCC BLAS TESTING,$(info $v=$($v)))$(info NVFLAGS=$(NVFLAGS) $(call gencode,$(ARCHS)))@:

lesson-sync: ## copy the quoted code from the sources into the lessons (CHECK=1: only compare)
	@tools/lesson_sync.py $(if $(CHECK),--check)
deps-check: ## a chapter may use only common/ and the chapters below it
	@tools/deps_check.py
format: ## clang-format all sources (CHECK=1: only compare)
	@tools/format.sh $(if $(CHECK),--check)
doctor: ## what this machine has, and what to do about what it lacks
	@tools/doctor.sh
mpi: ## install Open MPI, for several ranks by mpirun
	@tools/setup.sh mpi
clean: ## remove everything that was built
	rm -rf build $(PROGRAMS) [0-9][0-9]_*/figures/out
