"""flrun with stand-ins for the roles: `python flrun_with.py FUNCTION flags...`; FUNCTION is one of dummy_roles.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flps.cli.flrun import run

if __name__ == "__main__":
    roles = Path(__file__).with_name("dummy_roles.py")
    sys.exit(run(sys.argv[2:], os.environ, f"{roles}:{sys.argv[1]}"))
