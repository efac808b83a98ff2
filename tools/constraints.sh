#!/usr/bin/env bash
# Print the versions of everything installed beside the given Python, as pip constraints.
# usage: tools/constraints.sh .venv/bin/python > requirements/constraints.txt
set -euo pipefail
echo "# The versions the tests last passed with; written by \`make constraints\`."
# A local label (2.13.0+cpu) names a build, not a version: left out, any build of that version fits.
"$1" -m pip --disable-pip-version-check freeze --exclude-editable --exclude pip --exclude setuptools | grep -E '^[A-Za-z0-9._-]+==' | sed -E 's/\+[A-Za-z0-9.]+$//'
