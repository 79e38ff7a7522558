"""``python -m genzoo_cli`` is the same as ``genzoo``."""

import sys

from genzoo_cli.main import main

sys.exit(main())
