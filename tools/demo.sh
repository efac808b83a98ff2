#!/usr/bin/env bash
# The main job, start to end: train on the built-in digits, draw a grid and a film, measure, write the report.
# usage: tools/demo.sh RUN [arguments of `scorefield train`, such as --minutes 3]
# Called again it resumes: a run that is complete is not trained further. EVALUATE is the number of samples to measure.
set -euo pipefail
run=$1
shift
scorefield=$(dirname "$0")/../.venv/bin/scorefield

"$scorefield" train mnist --out "$run" "$@"
"$scorefield" sample "$run" -n 64 --seed 0 --out "$run/grid.png"
"$scorefield" sample "$run" -n 16 --seed 0 --out "$run/film.gif"
"$scorefield" evaluate "$run" mnist --test mnist-test -n "${EVALUATE:-500}"
echo "look at $run/grid.png, $run/film.gif and $run/report.html"
