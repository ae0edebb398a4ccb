"""``python -m greatmeta_dist``."""

import sys

from greatmeta_dist.cli import main

sys.exit(main())
