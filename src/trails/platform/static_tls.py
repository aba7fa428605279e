"""Room for native libraries that keep thread-local storage in the static block (a limit of glibc, not of trails).

The embedded graph engine, PyTorch and the suffix array each bring a library of that kind. With
glibc's default of 512 spare bytes they do not all fit into one process: whichever is imported last fails with "cannot allocate
memory in static TLS block". The tunable ``glibc.rtld.optional_static_tls`` (glibc manual, "Dynamic Linking Tunables") makes
room, and is read only when a process starts.
"""

from __future__ import annotations

import os
import sys

TUNABLE = "glibc.rtld.optional_static_tls"
SETTING = f"{TUNABLE}=16384"
ADVICE = f"Start Python with this in the environment: export GLIBC_TUNABLES={SETTING}"


def ensure() -> None:
    """Start this process again with room, once; a no-op where the tunable is set already or the system is not Linux.

    To be called by a program before it imports anything heavy, never by a library: the process begins anew.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if TUNABLE in tunables or not sys.platform.startswith("linux") or not sys.executable:
        return
    os.environ["GLIBC_TUNABLES"] = f"{tunables}:{SETTING}".lstrip(":")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
