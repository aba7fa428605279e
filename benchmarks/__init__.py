"""Benchmarks: each prints ratios against a baseline of the same run. Start one with python -m benchmarks.NAME."""

import os
import time

import psutil


def processor_seconds() -> float:
    """CPU seconds of this process and of every process that it has started, living or ended.

    The suffix array and guarded queries are computed in a process of their own, which ``time.process_time`` leaves out. The
    seconds of other processes come in hundredths.
    """
    ended = os.times()
    living = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            used = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        living += used.user + used.system
    return time.process_time() + ended.children_user + ended.children_system + living
