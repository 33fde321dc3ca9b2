"""`python -m sketchae` is the same as the console script `sketchae`."""

import sys

from sketchae.cli import main

sys.exit(main())
