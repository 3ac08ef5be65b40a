import sys

from dream_r.cli import main

sys.exit(main())
