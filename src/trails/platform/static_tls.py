"""Room for native libraries that keep thread-local storage in the static block (a limit of glibc, not of trails).

The embedded graph engine and PyTorch each bring a library of that kind, and glibc's default of 512 spare bytes holds both,
in either order; the suffix array, which would be the third, lives in a child process (:mod:`trails.analyses.suffixes`). A
library of the user's own can still be one too many: whichever is imported last fails with "cannot allocate memory in static
TLS block". The tunable ``glibc.rtld.optional_static_tls`` (glibc manual, "Dynamic Linking Tunables") makes room, and is read
only when a process starts.
"""

from __future__ import annotations

import os
import sys

TUNABLE = "glibc.rtld.optional_static_tls"
SETTING = f"{TUNABLE}=16384"
ADVICE = f"Start Python with this in the environment: export GLIBC_TUNABLES={SETTING}"


def ensure() -> None:
    """Start this process again with room, once; a no-op where the tunable is set already or the system is not Linux.

    For the command line alone, before it imports anything heavy; never at an import: the process starts again.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if TUNABLE in tunables or not sys.platform.startswith("linux") or not sys.executable:
        return
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{SETTING}".lstrip(":")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
