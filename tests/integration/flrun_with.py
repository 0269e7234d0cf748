"""flrun with other roles: `python flrun_with.py [FILE.py:]FUNCTION flags...`; without a file it is dummy_roles.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flps.cli.flrun import run

if __name__ == "__main__":
    file, _, function = sys.argv[1].rpartition(":")
    roles = Path(__file__).with_name(file or "dummy_roles.py")
    sys.exit(run(sys.argv[2:], os.environ, f"{roles}:{function}"))
