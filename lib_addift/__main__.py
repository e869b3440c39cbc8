"""`python -m lib_addift`."""

import sys

from lib_addift.cli import main

sys.exit(main())
