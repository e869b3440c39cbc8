"""`python -m lib_addift`."""

import sys

from lib_addift.cli.main import main

sys.exit(main())
