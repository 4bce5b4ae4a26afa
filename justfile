# Recipes for those who work on mcp-orch. `just` alone lists them.

default:
    @just --list

# All that CI checks
check:
    bash .ci/run

# All tests, with what they need installed first
test:
    ./scripts/test

# Rewrites tools/*.json, tests/golden and the generated parts of README.md after a change that is meant
update:
    UPDATE=1 cargo nextest run --test it

fmt:
    cargo fmt

lint:
    cargo clippy --workspace --all-targets -- -D warnings

# What the product costs over the floor under it; the results go to BENCHMARKS.md
bench *WORD:
    cargo bench --bench ratios -- {{WORD}}

# The main job, played by a real MCP client
demo *ARGS:
    ./scripts/demo {{ARGS}}
